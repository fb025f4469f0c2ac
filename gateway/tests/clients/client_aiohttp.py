"""PyPI `aiohttp`: see README.md. It says who it is with the first frame."""

import asyncio
import json
import sys

import aiohttp

from lines import closed, input_lines, output


async def main(url, token):
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(url, protocols=["holdfast.v1.json"], autoping=True) as socket:
            assert socket.protocol == "holdfast.v1.json", socket.protocol
            await socket.send_str(json.dumps({"hello": {"token": token}}))

            async def receive():
                async for message in socket:
                    assert message.type == aiohttp.WSMsgType.TEXT, message
                    output(message.data)

            receiving = asyncio.create_task(receive())
            async for line in input_lines():
                await socket.send_str(line)
            await socket.close(code=1000)
            await receiving
        closed(socket.close_code)


asyncio.run(main(*sys.argv[1:3]))

"""PyPI `websockets`: see README.md."""

import asyncio
import sys

from websockets.asyncio.client import connect

from lines import closed, input_lines, output


async def main(url, token):
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(url, subprotocols=["holdfast.v1.json"], additional_headers=headers) as socket:
        assert socket.subprotocol == "holdfast.v1.json", socket.subprotocol

        async def receive():
            async for message in socket:
                output(message)

        receiving = asyncio.create_task(receive())
        async for line in input_lines():
            await socket.send(line)
        await socket.close(1000)
        await receiving
    closed(socket.close_code)


asyncio.run(main(*sys.argv[1:3]))

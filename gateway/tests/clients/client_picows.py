"""PyPI `picows`: see README.md. It works on frames, so it also shows what the server does not fragment."""

import asyncio
import sys

from picows import WSCloseCode, WSListener, WSMsgType, ws_connect

from lines import closed, input_lines, output


class Listener(WSListener):
    close_code = None

    def on_ws_frame(self, transport, frame):
        assert frame.fin, "the server sends whole messages"
        if frame.msg_type == WSMsgType.TEXT:
            output(frame.get_payload_as_utf8_text())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.close_code = frame.get_close_code()
            transport.disconnect()


async def main(url, token):
    headers = {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": "holdfast.v1.json"}
    transport, listener = await ws_connect(Listener, url, extra_headers=headers)
    async for line in input_lines():
        transport.send(WSMsgType.TEXT, line.encode())
    transport.send_close(WSCloseCode.OK)
    await transport.wait_disconnected()
    closed(listener.close_code)


asyncio.run(main(*sys.argv[1:3]))

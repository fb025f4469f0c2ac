"""Standard input as lines for asyncio, standard output as lines that are seen at once."""

import asyncio
import json
import sys


async def input_lines():
    """Lines of standard input, without their ends, until it is closed."""
    reader = asyncio.StreamReader(limit=1 << 20)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield line.decode().rstrip("\n")


def output(text):
    print(text, flush=True)


def closed(code):
    output(json.dumps({"closed": code}))

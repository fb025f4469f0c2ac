"""A terminal client:  python chat.py URL TOKEN TO FILE

What is typed goes to TO (`@43`, or a group like `g7`), what arrives is printed. FILE keeps the cursor and what was not
accepted yet: nothing is lost or sent twice, whenever this program, the server or the network stops."""
import asyncio, contextlib, json, pathlib, sys, uuid
from websockets import ConnectionClosed, connect
url, token, to, file = *sys.argv[1:4], pathlib.Path(sys.argv[4])
state, link = json.loads(file.read_text()) if file.exists() else {"cursor": "0", "outbox": {}}, None

def save():
    file.with_suffix(".new").write_text(json.dumps(state))
    file.with_suffix(".new").replace(file)  # whole or not at all

async def say(**frame):
    with contextlib.suppress(ConnectionClosed, AttributeError):  # the next connection makes up for it
        await link.send(json.dumps(frame))

async def take(events):
    for event in (it for it in events if int(it["rev"]) > int(state["cursor"])):  # others are here already
        if int(event["rev"]) > int(state["cursor"]) + 1:
            return await say(sync={"after": state["cursor"]})
        state["cursor"] = event["rev"]
        if message := event["entry"].get("message"):
            print(message["conversation"], message["sender"], json.dumps(message["body"]), flush=True)
    await say(ack={"rev": state["cursor"]})

async def receive():
    await say(hello={"token": token, "cursor": state["cursor"]})
    async for text in link:
        ((kind, frame),) = json.loads(text).items()
        if kind == "welcome":  # what was accepted and not heard of is not there twice by this
            for client_id, body in list(state["outbox"].items()):
                await say(send={"clientId": client_id, "conversation": to, "body": body})
        elif kind in ("event", "page"):
            await take(frame.get("events", [frame]))
        elif kind == "gap":
            await say(sync={"after": state["cursor"]})
        elif kind == "accepted" or kind == "error" and not frame["retryAfterMs"]:
            state["outbox"].pop(frame["clientId"], None)
        if kind == "error":
            print(frame["code"], frame["message"], file=sys.stderr)
        save()

async def stay():
    global link
    async for link in connect(url, subprotocols=["holdfast.v1.json"]):  # again and again, with growing pauses
        with contextlib.suppress(ConnectionClosed):
            await receive()

async def main():
    staying = asyncio.create_task(stay())
    while line := await asyncio.to_thread(sys.stdin.readline):
        client_id = str(uuid.uuid4())
        state["outbox"][client_id] = {"text": line.rstrip("\n")}
        save()
        await say(send={"clientId": client_id, "conversation": to, "body": state["outbox"][client_id]})
    await staying
asyncio.run(main())

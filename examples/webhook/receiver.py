"""A receiver of webhooks in Python: verifies each request, answers challenges, prints events.

    pip install aiohttp ./clients/python
    WEBHOOK_SECRET=whsec_... python examples/webhook/receiver.py

docs/webhooks.md has the rest: how the endpoint is made and verified, and what each answer means.
"""

import os

from aiohttp import web
from tickets_hub.webhooks import WebhookError, verify

SECRET = os.environ["WEBHOOK_SECRET"]
PORT = int(os.environ.get("PORT", "8000"))

seen: set[str] = set()  # a real receiver keeps what it has seen where a restart does not lose it


async def receive(request: web.Request) -> web.Response:
    """Take one body; a 2xx says that all of it is ours."""
    try:
        body = verify(request.headers, await request.read(), SECRET)
    except WebhookError as error:
        print(f"refused: {error}", flush=True)
        return web.Response(status=401)
    if body["type"] == "verification":
        return web.json_response({"challenge": body["data"]["challenge"]})
    if body["type"] == "events":
        for event in body["data"]["events"]:
            if event["id"] not in seen:  # at least once: the same event may come again
                seen.add(event["id"])
                print("event", event["id"], event, flush=True)
    else:
        print(body["type"], body["data"], flush=True)
    return web.Response(status=204)


application = web.Application()
application.router.add_post("/tickets", receive)

if __name__ == "__main__":
    web.run_app(application, host="127.0.0.1", port=PORT)

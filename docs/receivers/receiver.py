"""Receives augur's webhooks with Flask: verifies each with the official library and takes each event once.

    pip install flask standardwebhooks
    AUGUR_WEBHOOK_SECRET=whsec_… PORT=3000 python receiver.py
"""

import os
from threading import Lock

from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError

app = Flask(__name__)
webhook = Webhook(os.environ["AUGUR_WEBHOOK_SECRET"])
# The ids of the events taken. Yours belong in a database, written in the transaction that does the event's work.
taken = set()
lock = Lock()  # Flask answers on many threads, and a repetition may come while the first one is at work.


@app.post("/hook")
def receive():
    # The bytes as they came: JSON that was parsed and written again has another signature.
    try:
        prediction = webhook.verify(request.get_data(), dict(request.headers))
    except (WebhookVerificationError, ValueError):
        return "not signed with our secret", 400
    event = request.headers["webhook-id"]
    with lock:
        if event not in taken:
            print(event, prediction["status"], flush=True)  # Do the work here, or put it into a queue of your own.
            taken.add(event)
    return "", 204


if __name__ == "__main__":
    app.run(port=int(os.environ.get("PORT", "3000")))

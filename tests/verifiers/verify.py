"""Shows webhooks to the official verifiers of PyPI. Standard input has them as a JSON list of {secret, headers, body};
standard output gets, by verifier, a list of why each was refused, null where it was accepted."""

import json
import sys

from replicate.webhook import Webhooks, WebhookSigningSecret, WebhookValidationError
from standardwebhooks import Webhook, WebhookVerificationError

SECONDS = 5 * 60


def standardwebhooks(webhook):
    Webhook(webhook["secret"]).verify(webhook["body"].encode(), webhook["headers"])


def replicate(webhook):
    secret = WebhookSigningSecret(key=webhook["secret"])
    # Its time is checked only when a tolerance is given.
    Webhooks.validate(headers=webhook["headers"], body=webhook["body"], secret=secret, tolerance=SECONDS)


def refusal(verify, webhook):
    try:
        verify(webhook)
    except (WebhookVerificationError, WebhookValidationError) as error:
        return f"{type(error).__name__}: {error}"
    return None


webhooks = json.load(sys.stdin)
verifiers = {"standardwebhooks (PyPI)": standardwebhooks, "replicate (PyPI)": replicate}
json.dump({name: [refusal(verify, webhook) for webhook in webhooks] for name, verify in verifiers.items()}, sys.stdout)

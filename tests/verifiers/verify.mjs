// Shows webhooks to the official verifier of npm. Standard input has them as a JSON list of {secret, headers, body};
// standard output gets, by verifier, a list of why each was refused, null where it was accepted.

import { text } from "node:stream/consumers";
import { Webhook, WebhookVerificationError } from "standardwebhooks";

function refusal({ secret, headers, body }) {
  try {
    new Webhook(secret).verify(body, headers);
    return null;
  } catch (error) {
    if (error instanceof WebhookVerificationError) return `${error.name}: ${error.message}`;
    throw error;
  }
}

const webhooks = JSON.parse(await text(process.stdin));
process.stdout.write(JSON.stringify({ "standardwebhooks (npm)": webhooks.map(refusal) }));

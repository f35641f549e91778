// Receives augur's webhooks with plain Node: verifies each with the official library and takes each event once.
//
//     npm install standardwebhooks
//     AUGUR_WEBHOOK_SECRET=whsec_… PORT=3000 node receiver.mjs

import { createServer } from "node:http";
import { Webhook } from "standardwebhooks";

const webhook = new Webhook(process.env.AUGUR_WEBHOOK_SECRET);
// The ids of the events taken. Yours belong in a database, written in the transaction that does the event's work.
const taken = new Set();

function receive(headers, body) {
  let prediction;
  try {
    prediction = webhook.verify(body, headers);
  } catch {
    return 400;
  }
  const event = headers["webhook-id"];
  if (!taken.has(event)) {
    console.log(event, prediction.status); // Do the work here, or put it into a queue of your own.
    taken.add(event);
  }
  return 204;
}

createServer(async (request, response) => {
  // The bytes as they came: JSON that was parsed and written again has another signature.
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  response.writeHead(receive(request.headers, Buffer.concat(chunks))).end();
}).listen(Number(process.env.PORT ?? 3000), "127.0.0.1");

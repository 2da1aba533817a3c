// A receiver of webhooks in Node.js: verifies each request, answers challenges, prints events.
//
//     npm install standardwebhooks
//     WEBHOOK_SECRET=whsec_... node receiver.js
//
// docs/webhooks.md has the rest: how the endpoint is made and verified, and what each answer means.
"use strict";

const http = require("node:http");
const { Webhook } = require("standardwebhooks");

const webhook = new Webhook(process.env.WEBHOOK_SECRET);
const seen = new Set(); // a real receiver keeps what it has seen where a restart does not lose it

function take(body) {
  if (body.type === "verification") {
    return { challenge: body.data.challenge };
  }
  if (body.type === "events") {
    for (const event of body.data.events.filter((one) => !seen.has(one.id))) {
      seen.add(event.id); // at least once: the same event may come again
      console.log("event", event.id, JSON.stringify(event));
    }
  } else {
    console.log(body.type, JSON.stringify(body.data));
  }
  return {};
}

const server = http.createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", () => {
    const raw = Buffer.concat(chunks); // what is signed are these bytes, not what a parser makes of them
    let body;
    try {
      body = webhook.verify(raw, request.headers);
    } catch (error) {
      console.log("refused:", error.message);
      response.writeHead(401).end();
      return;
    }
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(take(body)));
  });
});

server.listen(Number(process.env.PORT || 8000), "127.0.0.1", () => {
  console.log("listening on", server.address().port);
});

// Feishu's official Node SDK at work: client.js MODE URL PORT APP_ID SECRET KEY TOKEN
// MODE is `webhook` (listens on PORT) or `long-connection` (connects to URL). Prints one JSON line
// for each event that a handler got.
"use strict";

const http = require("node:http");
const lark = require("@larksuiteoapi/node-sdk");

const [mode, url, port, appId, appSecret, encryptKey, verificationToken] = process.argv.slice(2);

const TYPES = [
  "helpdesk.ticket.created_v1",
  "helpdesk.ticket.updated_v1",
  "helpdesk.ticket_message.created_v1",
  "helpdesk.notification.approve_v1",
];

// The SDK merges header and event into one object, where `event_id` of a ticket message is another
// one than the header's. The simulator's event ids are therefore looked for under both names.
const onEvent = async (data) => {
  process.stdout.write(
    JSON.stringify({ event_id: data.event_id, message_id: data.message_id, type: data.event_type }) +
      "\n",
  );
};

const handles = Object.fromEntries(TYPES.map((type) => [type, onEvent]));

if (mode === "webhook") {
  const dispatcher = new lark.EventDispatcher({ encryptKey, verificationToken }).register(handles);
  const server = http.createServer();
  server.on("request", lark.adaptDefault("/webhook/event", dispatcher));
  server.listen(Number(port), "127.0.0.1", () => {
    process.stdout.write(JSON.stringify({ ready: true }) + "\n");
  });
} else {
  const client = new lark.WSClient({
    appId,
    appSecret,
    domain: url,
    loggerLevel: lark.LoggerLevel.warn,
  });
  client.start({ eventDispatcher: new lark.EventDispatcher({}).register(handles) });
}

// An integration in Node.js: shows on the terminal whatever its key lets it see, for as long as it runs.
//
//   npm ci
//   HUB_KEY=tkt_integration_... node integration.js [earliest | latest | <cursor>]
//
// What to look at: no code is generated. The descriptor set beside the Python stubs is the whole contract, and
// proto-loader makes a client of it. The rest is what every client has to do itself: keep the newest cursor, open the
// stream again after it, commit it, notice silence, wait as long as the hub asks, and stop where trying again mends
// nothing. The hub keeps what was committed: without an argument the next run goes on there.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const failure = require('./failure');

const ADDRESS = process.env.HUB_ADDRESS || '127.0.0.1:50051';
const CONTRACT = path.join(__dirname, '..', '..', 'generated', 'tickets_hub.binpb');
const HEARTBEAT_SECONDS = 15;
const MAX_DELAY_MS = 30_000;
const COMMIT_EVERY_MS = 1_000;
// Everything else (a key, a permission, a takeover, a cursor) stays as it is however often one asks.
const WORTH_ANOTHER_TRY = new Set([
  grpc.status.OK, grpc.status.CANCELLED, grpc.status.UNKNOWN, grpc.status.DEADLINE_EXCEEDED,
  grpc.status.INTERNAL, grpc.status.UNAVAILABLE,
]);

const contract = grpc.loadPackageDefinition(
  protoLoader.loadFileDescriptorSetFromBuffer(fs.readFileSync(CONTRACT), {
    keepCase: true, // guild_id, as in the contract
    longs: String, // int64 does not fit into a JavaScript number
    enums: String, // SCOPE_TICKET_CREATED, not 1
    arrays: true, // a list without entries is [], not undefined
    oneofs: true, // event.payload and frame.notice name what is set
  }),
).tickets.hub.v1;

// Plaintext is for this machine only; elsewhere: grpc.credentials.createSsl().
const client = new contract.EventService(ADDRESS, grpc.credentials.createInsecure(), {
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 5_000,
  'grpc.max_receive_message_length': 4 * 1024 * 1024,
  'grpc.max_reconnect_backoff_ms': 5_000,
});
const metadata = new grpc.Metadata();
metadata.set('authorization', `Bearer ${process.env.HUB_KEY || ''}`);

if (!/^\S+:\d{1,5}$/.test(ADDRESS)) {
  console.error('integration: HUB_ADDRESS must be host:port, such as 127.0.0.1:50051');
  process.exit(2);
}

let cursor = '';
let failures = 0;
let stopping = false;
let stream;

function start() {
  const form = process.argv[2];
  if (cursor) return { cursor };
  if (!form) return {};
  return form === 'earliest' || form === 'latest' ? { [form]: {} } : { cursor: form };
}

function say(text) {
  console.log(`${new Date().toTimeString().slice(0, 8)}  ${text}`);
}

function show(event) {
  const fields = Object.entries(event[event.payload] || {}).filter(([name]) => !name.startsWith('_'));
  const when = new Date(Number(event.accept_time.seconds) * 1000).toTimeString().slice(0, 8);
  const shown = fields.map(([name, value]) => `${name}=${value}`).join(' ');
  console.log(`${when}  guild ${event.guild_id.padEnd(19)} ${(event.payload || 'unknown').padEnd(18)} ${shown}`);
}

function tell(frame) {
  const notice = frame[frame.notice];
  if (frame.notice === 'ready') say(`ready: ${notice.effective_scopes.join(', ') || 'no scopes'}`);
  if (frame.notice === 'grants_changed') {
    say(`granted: ${notice.added.join(', ') || '-'}; taken away: ${notice.removed.join(', ') || '-'} (${notice.reason})`);
  }
  if (frame.notice === 'gap') say('some history is not kept any more: fetch what matters by other means');
  if (frame.notice === 'goodbye') say(`the hub says goodbye: ${notice.reason}`);
}

// One commit after the other, each of the newest cursor: one that fails is made up for by the next.
let committed = '';
let turn = Promise.resolve();

function commit() {
  turn = turn.then(() => new Promise((done) => {
    const place = cursor;
    if (place === committed) return done();
    client.CommitCursor({ cursor: place }, metadata, { deadline: Date.now() + 5_000 }, (error) => {
      if (!error) committed = place;
      // CURSOR_EXPIRED: the place is of before a restore of the hub; the gap that follows brings one that can be kept.
      else if (failure.read(error).reason !== 'CURSOR_EXPIRED') say(`not committed: ${error.details}`);
      done();
    });
  }));
  return turn;
}

function subscribe() {
  let watchdog;
  let ready = false;
  let farewell = null;
  let timer;
  stream = client.Subscribe({ ...start(), heartbeat_interval: { seconds: HEARTBEAT_SECONDS } }, metadata);
  const current = stream;
  // No frame for two heartbeats and a second: the connection is dead, whatever it looks like.
  const alive = () => {
    clearTimeout(watchdog);
    watchdog = setTimeout(() => current.cancel(), (2 * HEARTBEAT_SECONDS + 1) * 1000);
  };
  alive();
  current.on('data', (frame) => {
    alive();
    if (frame.notice) tell(frame);
    if (frame.notice === 'goodbye') farewell = frame.goodbye;
    else if (ready) failures = 0; // a stream has proved itself once it brought something after Ready
    ready = true;
    frame.events.forEach(show);
    cursor = frame.cursor; // only now: every event of the frame has been handled
    if (!timer) commit(); // Ready's at once: then an end before the first event leaves a place to come back to
    timer = timer || setInterval(commit, COMMIT_EVERY_MS);
  });
  current.on('error', () => {}); // 'status' tells the same, and comes for a clean end, too
  current.on('status', (status) => {
    clearTimeout(watchdog);
    clearInterval(timer);
    ended(status, farewell);
  });
}

function ended(status, farewell) {
  if (stopping) return;
  const { reason, retryDelay } = failure.read(status);
  // RESOURCE_EXHAUSTED is worth it where the hub says when, or where it was not the hub that said it.
  const again = WORTH_ANOTHER_TRY.has(status.code)
    || (status.code === grpc.status.RESOURCE_EXHAUSTED && (retryDelay !== null || !reason));
  const name = reason || grpc.status[status.code];
  if (!again || (farewell && !farewell.reconnect)) {
    console.error(`integration: ${name}: ${status.details}`);
    process.exitCode = 1;
    client.close();
    return;
  }
  const backoff = Math.min(MAX_DELAY_MS, 250 * 2 ** Math.min(failures, 32)) * (0.5 + Math.random() / 2);
  const asked = Math.max(failure.milliseconds(farewell && farewell.retry_delay), retryDelay || 0);
  const delay = farewell && failures === 0 ? asked : Math.max(asked, backoff);
  failures += 1;
  say(`the stream ended (${name}: ${status.details}); again in ${(delay / 1000).toFixed(1)} s`);
  setTimeout(subscribe, delay);
}

function stop() {
  stopping = true;
  if (cursor) say(`to go on from here: node integration.js ${cursor}`);
  stream.cancel();
  commit().then(() => {
    client.close();
    process.exit(0);
  });
}

process.on('SIGINT', stop);
process.on('SIGTERM', stop);
subscribe();

// What `hub top` shows, live.

import { RateChart } from "./chart.js";
import { count, el, moment, rate, row, seconds, setText, size, span, table, theirs, word } from "./dom.js";

const MINUTES = 5;
const FAR = 60; // seconds: a reader that is further behind is marked
const LITTLE = 0.1; // of a disk
const READERS = ["Integration", "Reader", "Behind", "State"];
const KEYS = ["Ends", "Holder", "Key"];

/** The view; `update` takes a HubStatus. It goes on collecting while another view is shown. */
export class Overview {
  constructor() {
    this.tiles = new Map();
    this.facts = new Map();
    this.into = new RateChart("Events in", MINUTES);
    this.out = new RateChart("Events out", MINUTES);
    this.readers = el("section", {}, el("h2", { text: "Readers furthest behind" }));
    this.keys = el("section", { hidden: true }, el("h2", { text: "Keys that end soon" }));
    this.tileList = el("dl", { class: "tiles" });
    this.factList = el("dl", { class: "facts card" });
    this.node = [
      el("h1", { class: "unseen", text: "Overview" }),
      this.tileList,
      el("section", {}, el("h2", { text: "Events" }), el("div", { class: "charts" }, this.into.node, this.out.node)),
      this.readers,
      this.keys,
      el("section", {}, el("h2", { text: "This replica" }), this.factList),
    ];
  }

  update(status) {
    const time = Date.parse(status.time);
    this.into.add(time, status.events_per_second);
    this.out.add(time, status.delivered_per_second);
    for (const [name, ...texts] of tiles(status)) this.show(this.tiles, this.tileList, name, texts);
    for (const [name, ...texts] of facts(status)) this.show(this.facts, this.factList, name, texts);
    this.readers.replaceChildren(this.readers.firstChild, readers(status));
    this.keys.hidden = status.expiring_keys.length === 0;
    this.keys.replaceChildren(this.keys.firstChild, keys(status.expiring_keys));
  }

  show(known, list, name, texts) {
    if (!known.has(name)) {
      const nodes = texts.map(() => el("dd"));
      known.set(name, nodes);
      list.append(el("div", {}, el("dt", { text: name }), nodes));
    }
    known.get(name).forEach((node, index) => {
      const [text, tone] = [texts[index]].flat();
      setText(node, text);
      node.className = tone ?? "";
    });
  }
}

function tiles(status) {
  const streams = Object.values(status.streams).reduce((sum, one) => sum + one, 0);
  return [
    ["Events in", rate(status.events_per_second), `a second, ${rate(status.accepted_per_second)} accepted here`],
    ["Events out", rate(status.delivered_per_second), "a second, to all streams"],
    ["Append p99", span(seconds(status.append?.p99)), `half within ${span(seconds(status.append?.p50))}`],
    ["Streams", count(streams), states(status.streams) || "none is open"],
    ["Endpoints", ...endpoints(status.endpoints)],
    ["Store", ...store(status.store)],
  ];
}

const states = (counts) => Object.entries(counts).filter(([, one]) => one).map(([name, one]) => `${one} ${word(name, "")}`).join(", ");

function endpoints({ FAILING: failing = 0, ...others }) {
  const rest = states(others);
  if (failing) return [[`${count(failing)} failing`, "bad"], rest || "no other"];
  return [count(Object.values(others).reduce((sum, one) => sum + one, 0)), rest || "none is registered"];
}

function store(store) {
  if (store.failed) return [["failed", "bad"], "restart the hub"];
  if (!store.current) return [["silent", "bad"], `for ${span(seconds(store.silence))}: no events are sent`];
  if (Number(store.damaged_entries)) return [["damaged", "bad"], `${count(store.damaged_entries)} entries: run hub doctor`];
  const free = Number(store.disk_free_bytes);
  if (Number(store.disk_size_bytes) && free < LITTLE * Number(store.disk_size_bytes)) return [["disk full soon", "warn"], `${size(free)} free`];
  return [["current", "good"], `${store.kind}, at ${count(store.position)}`];
}

function facts(status) {
  const { store } = status;
  const emits = status.emits.map((one) => `${count(one.count)} ${one.reason || one.status}`).join(", ");
  return [
    ["Up for", `${span(seconds(status.uptime))}, version ${status.version}`],
    ["Emits of the last 10 s", emits || "none"],
    ["Event loop", `late by at most ${span(seconds(status.loop_lag_p99))}, 99 of 100 times`],
    ["Commit", `half within ${span(seconds(status.commit?.p50))}, 99 % within ${span(seconds(status.commit?.p99))}; groups of ${rate(status.group_entries)}`],
    ["Newest events in memory", `${size(status.window.bytes)} of ${size(status.window.max_bytes)}`],
    ["Older events in memory", `${size(status.pages.bytes)} of ${size(status.pages.max_bytes)}`],
    ...(Number(store.disk_size_bytes) ? [["Disk", `${size(store.bytes)} in use, ${size(store.disk_free_bytes)} free`]] : []),
    ["Events are kept since", moment(store.first_time).textContent ?? "the beginning"],
    ["Last backup", moment(store.backup_time).textContent ?? "never"],
  ];
}

function readers(status) {
  if (!status.readers.length) return el("p", { class: "soft", text: "There is no reader yet: one appears with the first stream or endpoint of an integration." });
  const furthest = Math.max(1, ...status.readers.map((one) => seconds(one.lag)));
  const list = table("Readers furthest behind", READERS, status.readers.map((one) => row(READERS, [
    theirs(one.integration_name || one.integration_id),
    theirs(one.endpoint_id ? `endpoint ${one.endpoint_id}` : one.subscription_id),
    lag(seconds(one.lag), furthest),
    doing(one),
  ])));
  const rest = status.reader_count - status.readers.length;
  return el("div", { class: "card" }, list, rest > 0 ? el("p", { class: "soft small", text: `and ${count(rest)} that are less far behind` }) : null);
}

function doing(reader) {
  if (reader.failing_since) return [{}, "fails since ", moment(reader.failing_since)];
  if (reader.endpoint_id) return "delivers";
  return `${reader.connected ? "stream open" : "away"}${reader.committed ? ", commits its place" : ""}`;
}

function lag(length, furthest) {
  const part = el("span");
  part.style.width = `${(100 * length) / furthest}%`;
  const text = length < 1 ? "up to date" : length > FAR ? `${span(length)}, far behind` : span(length);
  return [{ class: "lag" }, el("span", {}, text, el("span", { class: length > FAR ? "bar warn" : "bar", "aria-hidden": "true" }, length < 1 ? null : part))];
}

function keys(expiring) {
  return el("div", { class: "card" }, table("Keys that end soon", KEYS, expiring.map((one) => row(KEYS, [
    moment(one.expire_time),
    el("span", {}, theirs(one.holder), one.integration_id ? "" : " (service key)"),
    el("code", { text: one.key_id }),
  ]))));
}

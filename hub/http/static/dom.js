// Elements, made without any markup in texts: what others wrote goes through textContent alone.

/** An element with properties (class, text, on..., data-..., any attribute) and children; null children are left out. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "text") made.textContent = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** A text that somebody else wrote: in its own direction. */
export function theirs(text, name = "span") {
  return el(name, { class: "theirs", dir: "auto", text });
}

/** A link to a page of somebody else. */
export function link(url, text) {
  return /^https:\/\//.test(url) ? el("a", { href: url, rel: "noopener noreferrer nofollow", target: "_blank", text }) : el("span", { class: "soft", text: `${text}: none` });
}

/** A line that says of which integration alone a view is, with the way to all; null for all of them. */
export function onlyOf(id, all) {
  return id ? el("p", { class: "links" }, el("span", {}, "Only of ", el("code", { text: id })), el("a", { href: all, text: "Show all" })) : null;
}

/** A table with the names of its columns; its rows are made by `row`. */
export function table(label, columns, rows) {
  const head = el("tr", { role: "row" }, columns.map((column) => el("th", { role: "columnheader", scope: "col", text: column })));
  return el(
    "table",
    { role: "table", "aria-label": label },
    el("thead", { role: "rowgroup" }, head),
    el("tbody", { role: "rowgroup" }, rows),
  );
}

/** One row of a table, with the names of the columns for a phone; cells are nodes, texts, or [properties, ...children]. */
export function row(columns, cells) {
  return el("tr", { role: "row" }, cells.map((cell, index) => {
    const properties = { role: "cell", "data-label": columns[index] };
    return Array.isArray(cell) ? el("td", { ...properties, ...cell[0] }, cell.slice(1)) : el("td", properties, cell);
  }));
}

/** Change a text where it differs: what did not change is not read out again. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const TIMES = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const COUNTS = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const RATES = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 1, minimumFractionDigits: 1 });

/** A moment, as the reader's clock has it; "never" for none. */
export function moment(time) {
  return time ? el("time", { datetime: time, text: TIMES.format(new Date(time)) }) : "never";
}

export const count = (number) => COUNTS.format(Number(number));
export const rate = (number) => (number >= 1000 ? COUNTS : RATES).format(number);

/** The seconds of a duration in JSON ("1.5s"). */
export const seconds = (duration) => (duration ? Number.parseFloat(duration) : 0);

/** A length of time for people. */
export function span(length) {
  if (length < 1) return `${(length * 1000).toFixed(1)} ms`;
  if (length < 60) return `${length.toFixed(0)} s`;
  const minutes = Math.floor(length / 60) % 60;
  const hours = Math.floor(length / 3600) % 24;
  const days = Math.floor(length / 86400);
  if (days) return `${days} d ${hours} h`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min`;
}

/** Bytes for people. */
export function size(bytes) {
  let left = Number(bytes);
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (left < 1024) return `${left.toFixed(unit === "B" ? 0 : 1)} ${unit}`;
    left /= 1024;
  }
  return `${left.toFixed(1)} TiB`;
}

/** The name of an enum's value in words: INTEGRATION_STATE_ACTIVE is "active". */
export const word = (name, prefix) => (name || "").replace(prefix, "").replaceAll("_", " ").toLowerCase();

// A line of the last minutes, drawn as SVG: the texts beside it are HTML, and its label says it in words.

import { el, rate, setText } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600;
const HEIGHT = 100;
const STEPS = [1, 2, 5];

/** A chart of values a second; `add` takes the value of now. */
export class RateChart {
  constructor(title, minutes) {
    this.title = title;
    this.milliseconds = minutes * 60_000;
    this.points = [];
    this.now = el("strong", { text: "–" });
    this.most = el("span", { class: "top-mark" });
    this.area = shape("area");
    this.line = shape("line");
    this.picture = document.createElementNS(SVG, "svg");
    this.picture.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    this.picture.setAttribute("preserveAspectRatio", "none");
    this.picture.setAttribute("role", "img");
    this.picture.append(this.area, this.line);
    const ends = [el("span", { text: `${minutes} min ago` }), el("span", { text: "now" })];
    this.node = el(
      "figure",
      { class: "chart card" },
      el("figcaption", {}, el("span", { text: title }), el("span", {}, this.now, el("span", { class: "soft", text: " a second" }))),
      el("div", { class: "plot" }, this.most, this.picture),
      el("div", { class: "ends", "aria-hidden": "true" }, ends),
    );
  }

  add(time, value) {
    this.points.push([time, value]);
    while (this.points[0][0] < time - this.milliseconds) this.points.shift();
    this.draw(time);
  }

  draw(time) {
    const most = ceiling(Math.max(...this.points.map(([, value]) => value)));
    const place = ([at, value]) => [WIDTH * (1 - (time - at) / this.milliseconds), HEIGHT * (1 - value / most)];
    const path = this.points.map(place).map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`).join(" L");
    const first = place(this.points[0])[0].toFixed(1);
    this.line.setAttribute("d", `M${path}`);
    this.area.setAttribute("d", `M${first} ${HEIGHT} L${path} L${WIDTH} ${HEIGHT} Z`);
    const value = rate(this.points.at(-1)[1]);
    setText(this.now, value);
    setText(this.most, rate(most));
    this.picture.setAttribute("aria-label", `${this.title}: ${value} a second now; the chart ends at ${rate(most)}`);
  }
}

function shape(name) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("class", name);
  return made;
}

/** A round number that is not below a value: 1, 2 or 5 times a power of ten. */
export function ceiling(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * (STEPS.find((step) => step * power >= value) ?? 10);
}

"use strict";
// Theme: that of the system until the button or an earlier visit says otherwise.
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = document.getElementById("theme");
  let chosen = null;
  try { chosen = localStorage.getItem("archgrad-theme"); } catch { /* a page without storage keeps no choice */ }
  const apply = () => {
    const theme = chosen === "dark" || chosen === "light" ? chosen : system.matches ? "dark" : "light";
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light mode" : "Dark mode";
  };
  system.addEventListener("change", apply);
  button.addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("archgrad-theme", chosen); } catch { /* as above */ }
    apply();
  });
  apply();
})();

// Text always goes in as text, never as markup: labels and candidates are named by users.
const svgElement = (name, attributes) => {
  const element = document.createElementNS(document.documentElement.querySelector("svg").namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const setText = (element, text, title = "") => {
  element.textContent = text;
  if (title) {
    const node = svgElement("title", {});
    node.textContent = title;
    element.prepend(node);
  }
};
const number = (element, name) => Number(element.dataset[name]);
const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
const share = (thousandths) => (thousandths < 0 ? "" : (thousandths / 1000).toFixed(2));

// One row of values for each curve, by the epochs of its chart.
const curveValues = (plot) =>
  [...plot.querySelectorAll(".series")].map((path) => ({
    name: path.dataset.name, values: path.dataset.values.split(","),
  }));

class RunView {
  constructor(section) {
    this.section = section;
    this.plots = [...section.querySelectorAll(".plot")];
    const script = section.querySelector("script.frames");
    this.data = script ? JSON.parse(script.textContent) : null;
    this.slider = section.querySelector(".scrubber input");
    if (!this.slider) return;
    this.output = section.querySelector(".scrubber output");
    this.change = section.querySelector(".scrubber .change");
    this.play = section.querySelector(".play");
    this.timer = null;
    for (const plot of this.plots) {
      plot.append(svgElement("line", { class: "epoch-line", y1: number(plot, "y"), y2: number(plot, "y") + number(plot, "h") }));
    }
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.slider.addEventListener("pointerdown", () => this.stop());
    this.slider.addEventListener("keydown", () => this.stop());
    this.play.addEventListener("click", () => (this.timer ? this.stop() : this.start()));
    this.show(Number(this.slider.value));
  }

  start() {
    if (Number(this.slider.value) >= Number(this.slider.max)) this.go(0);
    this.play.textContent = "Pause";
    this.timer = setInterval(() => {
      const next = Number(this.slider.value) + 1;
      if (next > Number(this.slider.max)) this.stop();
      else this.go(next);
    }, 220);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
  }

  go(k) {
    this.slider.value = String(k);
    this.show(k);
  }

  goToEpoch(epoch) {
    if (!this.slider) return;
    const epochs = this.data.epochs;
    let nearest = 0;
    epochs.forEach((e, k) => { if (Math.abs(e - epoch) < Math.abs(epochs[nearest] - epoch)) nearest = k; });
    this.go(nearest);
  }

  show(k) {
    const epoch = this.data.epochs[k];
    this.output.textContent = String(epoch);
    this.slider.setAttribute("aria-valuetext", "epoch " + epoch);
    let changes = 0;
    for (const [label, cell] of Object.entries(this.data.cells)) {
      changes += this.showCell(label, cell, k);
    }
    for (const [label, choice] of Object.entries(this.data.choices)) {
      changes += this.showChoice(label, choice, k);
    }
    const count = changes === 0 ? "no decision" : changes === 1 ? "1 decision" : `${changes} decisions`;
    this.change.textContent = k === 0 ? "" : `${count} changed since ${this.data.epochs[k - 1]}`;
    for (const plot of this.plots) this.markEpoch(plot, epoch);
  }

  showCell(label, cell, k) {
    const width = cell.names.length;
    const probability = (edge, name) => cell.p[k][edge * width + name];
    const kept = new Map(cell.kept[k].map(([edge, name]) => [cell.pairs[edge], { edge, name }]));
    for (const figure of this.section.querySelectorAll(".forming")) {
      if (figure.dataset.cell !== label) continue;
      for (const element of figure.querySelectorAll("[data-edge]")) {
        const kind = element.classList[0];
        if (kind !== "edge" && kind !== "tip" && kind !== "edge-label") continue;
        const hit = kept.get(element.dataset.edge);
        element.classList.toggle("kept", Boolean(hit));
        const colour = hit ? `var(--${cell.roles[hit.name]})` : "var(--unkept)";
        if (kind === "edge") {
          const p = hit ? probability(hit.edge, hit.name) : 0;
          element.style.stroke = colour;
          element.setAttribute("stroke-width", hit ? (p < 0 ? 2 : 1 + 0.008 * p) : 1);
        } else if (kind === "tip") {
          element.style.fill = colour;
        } else if (hit) {
          const names = element.closest(".narrow") ? cell.narrow : cell.wide;
          const p = probability(hit.edge, hit.name);
          setText(element, names[hit.name], cell.names[hit.name] + (p < 0 ? "" : ", probability " + share(p)));
        } else {
          element.textContent = "";
        }
      }
    }
    for (const holder of this.section.querySelectorAll(".alphas-of")) {
      if (holder.dataset.cell !== label) continue;
      holder.querySelectorAll("tbody span").forEach((span, place) => {
        const p = cell.p[k][place];
        const hit = kept.get(cell.pairs[Math.floor(place / width)]);
        span.textContent = share(p);
        span.style.setProperty("--p", Math.max(p, 0) / 1000);
        span.classList.toggle("kept", Boolean(hit) && hit.name === place % width);
      });
    }
    if (k === 0) return 0;
    const before = new Set(cell.kept[k - 1].map(String));
    return cell.kept[k].filter((edge) => !before.has(String(edge))).length;
  }

  showChoice(label, choice, k) {
    const chosen = new Set(choice.chosen[k]);
    for (const group of this.section.querySelectorAll(".forming-choices .choice")) {
      if (group.dataset.choice !== label) continue;
      group.querySelectorAll(".candidate").forEach((candidate) => {
        const place = choice.names.indexOf(candidate.dataset.candidate);
        const hit = chosen.has(place);
        candidate.classList.toggle("chosen", hit);
        const pill = candidate.querySelector(".pill");
        pill.style.fill = hit ? "var(--chosen)" : "var(--surface)";
        pill.style.stroke = hit ? "var(--chosen)" : "var(--faint)";
        candidate.querySelector(".pill-text").style.fill = hit ? "var(--on-chosen)" : "var(--ink)";
        const bar = candidate.querySelector(".pill-bar");
        const p = choice.p[k][place];
        if (bar) bar.setAttribute("width", (number(bar, "full") * Math.max(p, 0)) / 1000);
        const title = candidate.querySelector("title");
        if (title) title.textContent = `${label}: ${candidate.dataset.candidate}` + (p < 0 ? "" : ", probability " + share(p));
      });
    }
    if (k === 0) return 0;
    return String(choice.chosen[k]) === String(choice.chosen[k - 1]) ? 0 : 1;
  }

  markEpoch(plot, epoch) {
    const [first, last] = [number(plot, "first"), number(plot, "last")];
    let fraction = last > first ? (epoch - first) / (last - first) : 0.5;
    if (plot.dataset.kind === "heat") {
      const n = this.data.epochs.length;
      fraction = (this.data.epochs.indexOf(epoch) + 0.5) / n;
    }
    const x = number(plot, "x") + number(plot, "w") * fraction;
    const line = plot.querySelector(".epoch-line");
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
    line.style.display = fraction < 0 || fraction > 1 ? "none" : "";
    if (plot.dataset.kind !== "curve") return;
    const place = plot.dataset.epochs.split(",").indexOf(String(epoch));
    for (const curve of curveValues(plot)) {
      for (const legend of plot.closest("svg").querySelectorAll(".legend")) {
        if (legend.dataset.name === curve.name) {
          legend.textContent = legend.dataset.short + ": " + (curve.values[place] || "–");
        }
      }
    }
  }
}

// Values under the pointer; a click moves the slider there.
(() => {
  const views = new Map();
  for (const section of document.querySelectorAll("[data-run]")) views.set(section, new RunView(section));
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const locate = (plot, event) => {
    const frame = plot.querySelector("rect").getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width;
    const y = (event.clientY - frame.top) / frame.height;
    return { x: Math.min(Math.max(x, 0), 0.9999), y: Math.min(Math.max(y, 0), 0.9999) };
  };
  const curveTip = (plot, at) => {
    const epochs = plot.dataset.epochs.split(",");
    const [first, last] = [number(plot, "first"), number(plot, "last")];
    const wanted = first + at.x * (last - first);
    let place = 0;
    epochs.forEach((e, k) => { if (Math.abs(e - wanted) < Math.abs(epochs[place] - wanted)) place = k; });
    const lines = curveValues(plot).filter((c) => c.values[place]).map((c) => `${c.name}: ${c.values[place]}`);
    return { epoch: Number(epochs[place]), text: [`epoch ${epochs[place]}`, ...lines].join("\n") };
  };
  const heatTip = (plot, at, view) => {
    const data = view.data;
    const k = Math.floor(at.x * data.epochs.length);
    const label = plot.dataset.label;
    const cut = label.lastIndexOf("/");
    const cell = own(data.cells, label.slice(0, cut));
    const edge = cell ? cell.pairs.indexOf(label.slice(cut + 1)) : -1;
    const names = edge >= 0 ? cell.names : own(data.choices, label)?.names;
    if (!names) return { epoch: data.epochs[k], text: `${label}\nepoch ${data.epochs[k]}` };
    const row = Math.floor(at.y * names.length);
    const p = edge >= 0 ? cell.p[k][edge * names.length + row] : data.choices[label].p[k][row];
    return { epoch: data.epochs[k], text: `${label}\n${names[row]}: ${share(p)}\nepoch ${data.epochs[k]}` };
  };
  for (const plot of document.querySelectorAll(".plot")) {
    const view = views.get(plot.closest("[data-run]"));
    const read = (event) => {
      const at = locate(plot, event);
      return plot.dataset.kind === "heat" ? heatTip(plot, at, view) : curveTip(plot, at);
    };
    plot.addEventListener("pointermove", (event) => {
      tip.textContent = read(event).text;
      tip.hidden = false;
      const right = event.clientX + 14 + tip.offsetWidth > innerWidth;
      tip.style.left = Math.max(4, right ? event.clientX - tip.offsetWidth - 14 : event.clientX + 14) + "px";
      tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4)) + "px";
    });
    plot.addEventListener("pointerleave", () => { tip.hidden = true; });
    plot.addEventListener("click", (event) => { if (view) view.goToEpoch(read(event).epoch); });
  }
})();

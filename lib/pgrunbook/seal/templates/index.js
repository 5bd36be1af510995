"use strict";
const rows = JSON.parse(document.getElementById("data").textContent);
const [RUN, BEGAN, RUNBOOK, TARGET, WHO, OUTCOME, TOOK, SEAL, LINK, APPROVAL] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const PART = 200;
const tones = {done: "good", refused: "warn", waiting: "warn", running: "warn"};
const byId = (id) => document.getElementById(id);
const selects = [...document.querySelectorAll("select")];
const texts = rows.map((row) => row.join("\n").toLowerCase());
let found = [];
let shown = 0;

for (const select of selects) {
  const field = Number(select.dataset.field);
  for (const value of [...new Set(rows.map((row) => row[field]))].sort()) {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    select.append(option);
  }
}

function filter() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = selects.map((select) => [Number(select.dataset.field), select.value]).filter(([, value]) => value);
  const from = byId("from").value, to = byId("to").value;
  found = rows.filter((row, at) =>
    chosen.every(([field, value]) => row[field] === value) &&
    (!from || row[BEGAN] >= from) && (!to || row[BEGAN].slice(0, 10) <= to) &&
    words.every((word) => texts[at].includes(word)));
  byId("rows").replaceChildren();
  shown = 0;
  more();
  draw();
}

function cell(text, tone) {
  const made = document.createElement("td");
  made.textContent = text;
  if (tone) made.className = tone;
  return made;
}

const headings = [...document.querySelectorAll("th")].map((one) => one.textContent);

function more() {
  const part = document.createDocumentFragment();
  for (const row of found.slice(shown, shown + PART)) {
    const line = document.createElement("tr");
    const first = cell("");
    const link = document.createElement("a");
    link.href = encodeURIComponent(row[RUN]) + "/" + row[LINK];
    link.textContent = row[RUN];
    first.append(link);
    line.append(first, cell(row[BEGAN].replace("T", " ")), cell(row[RUNBOOK]), cell(row[TARGET]), cell(row[WHO]),
      cell(row[OUTCOME], tones[row[OUTCOME]] || "bad"), cell(row[TOOK]), cell(row[SEAL]),
      cell(row[APPROVAL], ["not approved", "EMERGENCY"].includes(row[APPROVAL]) ? "bad" : ""));
    [...line.children].forEach((one, at) => { one.dataset.name = headings[at]; });
    part.append(line);
  }
  byId("rows").append(part);
  shown = Math.min(found.length, shown + PART);
  byId("count").textContent = `${found.length} of ${rows.length} runs` + (shown < found.length ? `, ${shown} shown` : "");
  byId("more").hidden = shown >= found.length;
}

function draw() {
  const line = byId("line");
  line.replaceChildren();
  if (!found.length) return;
  const times = found.map((row) => Date.parse(row[BEGAN] + "Z"));
  const first = times.reduce((a, b) => Math.min(a, b)), last = times.reduce((a, b) => Math.max(a, b));
  const bars = 60, step = Math.max(1, (last - first) / bars), counts = Array.from({length: bars + 1}, () => [0, 0, 0]);
  const kind = (row) => ["good", "warn"].indexOf(tones[row[OUTCOME]]) + 1 || 3;
  found.forEach((row, at) => { counts[Math.floor((times[at] - first) / step)][kind(row) - 1] += 1; });
  const most = counts.reduce((a, each) => Math.max(a, each[0] + each[1] + each[2]), 1), width = 100 / (bars + 1);
  const put = (name, facts, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(facts)) made.setAttribute(key, value);
    if (text) made.textContent = text;
    line.append(made);
  };
  const fills = ["#1a7f37", "#9a6700", "#cf222e"];
  counts.forEach((each, at) => {
    let below = 0;
    each.forEach((n, of) => {
      const tall = 48 * n / most;
      below += tall;
      put("rect", {x: `${at * width}%`, width: `${width * 0.8}%`, y: 50 - below, height: tall, fill: fills[of]});
    });
  });
  const day = (time) => new Date(time).toISOString().slice(0, last - first < 2 * 86400e3 ? 16 : 10).replace("T", " ");
  put("text", {x: 0, y: 66, "font-size": 11, fill: "#59636e"}, day(first));
  put("text", {x: "100%", y: 66, "font-size": 11, fill: "#59636e", "text-anchor": "end"}, day(last));
}

for (const part of [...selects, byId("search"), byId("from"), byId("to")]) part.addEventListener("input", filter);
byId("more").addEventListener("click", more);
filter();

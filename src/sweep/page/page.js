"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const cells = data.cells;
  const byId = (id) => document.getElementById(id);
  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  };
  const buttons = () => [...document.querySelectorAll("button.cell")].filter((b) => b.offsetParent !== null);
  const number = (button) => Number(button.dataset.cell);

  // What was chosen stays in the browser; a browser that keeps nothing forgets it when the page closes.
  const memory = "colora choice " + location.pathname;
  let best = new Set();
  try { best = new Set(JSON.parse(localStorage.getItem(memory) || "[]")); } catch { best = new Set(); }
  const keep = () => { try { localStorage.setItem(memory, JSON.stringify([...best])); } catch { /* nothing is kept */ } };
  const key = (cell) => cell.id || cell.file || JSON.stringify(cell.at);
  const spoken = (n) => cells[n].name + (cells[n].src ? "" : ": " + (cells[n].error || "There is no picture."));
  const isBest = (n) => best.has(key(cells[n]));

  const say = (text) => { byId("said").textContent = text; };
  let marked = [];
  let open = null;

  function refresh() {
    for (const button of document.querySelectorAll("button.cell")) {
      const n = number(button);
      button.classList.toggle("best", isBest(n));
      button.classList.toggle("marked", marked.includes(n));
      const state = (isBest(n) ? ", chosen" : "") + (marked.includes(n) ? ", to compare" : "");
      button.setAttribute("aria-label", spoken(n) + state);
    }
    const count = cells.filter((_, n) => isBest(n)).length;
    byId("count").textContent = count + " chosen";
    byId("commands").disabled = count === 0;
    byId("save").disabled = count === 0;
  }

  function choose(n) {
    const name = key(cells[n]);
    if (best.has(name)) best.delete(name); else best.add(name);
    keep();
    refresh();
    say(cells[n].name + (isBest(n) ? " is chosen" : " is not chosen any more"));
    if (byId("only").checked) arrange();
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", text);
      area.value = text;
      (document.querySelector("dialog[open]") || document.body).append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say(what + " copied");
  }

  // The tables stay as they are; other orders and choices are a list of their own.
  function arrange() {
    const order = byId("order").value;
    const only = byId("only").checked;
    const flat = order !== "place" || only;
    for (const part of document.querySelectorAll(".tables")) part.hidden = flat;
    const list = byId("list");
    list.hidden = !flat;
    list.replaceChildren();
    if (!flat) { page(); roving(); return; }
    let all = cells.map((_, n) => n).filter((n) => !only || isBest(n));
    const value = {
      seconds: (n) => cells[n].seconds ?? Infinity,
      seed: (n) => cells[n].seed ?? "",
      best: (n) => (isBest(n) ? 0 : 1),
      place: (n) => n,
    }[order];
    const compare = (a, b) => (typeof a === "string" ? a.length - b.length || (a < b ? -1 : a > b ? 1 : 0) : a - b || 0);
    all = all.map((n) => [value(n), n]).sort((a, b) => compare(a[0], b[0]) || a[1] - b[1]).map((pair) => pair[1]);
    for (const n of all) {
      const item = make("li");
      const source = document.querySelector('.tables button.cell[data-cell="' + n + '"]');
      const button = source.cloneNode(true);
      item.append(button, make("span", cells[n].name, "words"));
      list.append(item);
    }
    if (all.length === 0) list.append(make("li", "Nothing is chosen yet."));
    refresh();
    roving();
  }

  function page() {
    const select = byId("page");
    const sections = [...document.querySelectorAll(".tables > section")];
    sections.forEach((section, n) => { section.hidden = Boolean(select) && select.value !== "all" && Number(select.value) !== n; });
  }

  // One cell is in the order of the tabulator; arrows go to the others.
  function roving(to) {
    const all = buttons();
    const current = to || all.find((b) => b.tabIndex === 0) || all[0];
    for (const button of document.querySelectorAll("button.cell")) button.tabIndex = button === current ? 0 : -1;
    return current;
  }

  function neighbour(button, key) {
    const all = buttons();
    if (key === "Home") return all[0];
    if (key === "End") return all[all.length - 1];
    const at = all.indexOf(button);
    if (key === "ArrowLeft") return all[at - 1];
    if (key === "ArrowRight") return all[at + 1];
    const box = button.getBoundingClientRect();
    const down = key === "ArrowDown";
    let found = null;
    let least = Infinity;
    for (const other of all) {
      const place = other.getBoundingClientRect();
      const rows = down ? place.top - box.top : box.top - place.top;
      if (rows < 4) continue;
      const away = rows * 1000 + Math.abs(place.left - box.left);
      if (away < least) { least = away; found = other; }
    }
    return found;
  }

  function mark(n) {
    if (!cells[n].src) { say("There is no picture to compare."); return; }
    marked = marked.includes(n) ? marked.filter((m) => m !== n) : [...marked, n].slice(-2);
    refresh();
    if (marked.length === 2) { compare(); } else { say(marked.length ? "Mark another picture to compare." : "No picture is marked."); }
  }

  function compare() {
    const pair = byId("pair");
    pair.replaceChildren();
    const wipe = byId("wipe");
    wipe.replaceChildren();
    for (const n of marked) {
      const figure = make("figure");
      const picture = make("img");
      picture.src = cells[n].src;
      picture.alt = cells[n].name;
      figure.append(picture, make("figcaption", cells[n].name));
      pair.append(figure);
      const layer = make("img");
      layer.src = cells[n].src;
      layer.alt = "";
      wipe.append(layer);
    }
    part();
    byId("compare").showModal();
  }

  function part() {
    const above = byId("wipe").lastElementChild;
    if (above) above.style.clipPath = "inset(0 0 0 " + byId("part").value + "%)";
  }

  let zoom = 0;
  function scale(to) {
    zoom = to;
    const view = byId("view");
    const picture = view.querySelector("img");
    view.classList.toggle("large", zoom > 0);
    if (picture) picture.style.width = zoom > 0 ? cells[open].width * zoom + "px" : "";
    for (const button of document.querySelectorAll("#zoom [data-zoom]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.zoom) === zoom));
    }
  }

  function show(n) {
    open = n;
    const cell = cells[n];
    byId("name").textContent = cell.name;
    const view = byId("view");
    view.replaceChildren();
    if (cell.src) {
      const picture = make("img");
      picture.src = cell.src;
      picture.alt = cell.name;
      view.append(picture);
    } else {
      view.append(make("p", cell.error || "There is no picture."));
    }
    const facts = byId("facts");
    facts.replaceChildren();
    const rows = [
      ["Prompt", cell.prompt],
      ["Seed", cell.seed],
      ["Size", cell.width ? cell.width + "x" + cell.height : ""],
      ["Seconds", cell.seconds === undefined ? "" : cell.seconds.toFixed(2)],
      ["File", cell.file],
    ];
    for (const [title, text] of rows) if (text) facts.append(make("dt", title), make("dd", text));
    byId("command").textContent = cell.command || "";
    byId("command").hidden = !cell.command;
    byId("copy").disabled = !cell.command;
    byId("choose").setAttribute("aria-pressed", String(isBest(n)));
    byId("mark").setAttribute("aria-pressed", String(marked.includes(n)));
    scale(0);
    if (!byId("zoom").open) byId("zoom").showModal();
  }

  function step(by) {
    const all = buttons();
    const at = all.findIndex((button) => number(button) === open);
    const next = all[at + by];
    if (next) { roving(next); show(number(next)); }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.cell");
    if (button) { roving(button); show(number(button)); }
  });

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const button = event.target.closest ? event.target.closest("button.cell") : null;
    if (button) {
      const next = /^(Arrow|Home|End)/.test(event.key) ? neighbour(button, event.key) : null;
      if (next) { roving(next); next.focus(); event.preventDefault(); }
      const n = number(button);
      if (event.key === "b") choose(n);
      if (event.key === "c") mark(n);
      if (event.key === "y" && cells[n].command) copy(cells[n].command, "The command is");
      if (event.key === "?") byId("help").showModal();
      return;
    }
    if (byId("zoom").open && !event.target.closest("input, select")) {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
      if (event.key === "b") { choose(open); show(open); }
      if (event.key === "y" && cells[open].command) copy(cells[open].command, "The command is");
    }
  });

  byId("zoom").addEventListener("close", () => {
    const button = buttons().find((b) => number(b) === open);
    if (button) { roving(button); button.focus(); }
  });
  byId("compare").addEventListener("close", () => { marked = []; refresh(); });
  for (const button of document.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }
  for (const button of document.querySelectorAll("#zoom [data-zoom]")) {
    button.addEventListener("click", () => scale(Number(button.dataset.zoom)));
  }
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  byId("choose").addEventListener("click", () => { choose(open); show(open); });
  byId("mark").addEventListener("click", () => { const n = open; byId("zoom").close(); mark(n); });
  byId("copy").addEventListener("click", () => copy(cells[open].command, "The command is"));
  byId("part").addEventListener("input", part);
  byId("helper").addEventListener("click", () => byId("help").showModal());
  byId("order").addEventListener("change", arrange);
  byId("only").addEventListener("change", arrange);
  if (byId("page")) byId("page").addEventListener("change", () => { page(); roving(); });
  byId("size").addEventListener("input", () => document.documentElement.style.setProperty("--size", byId("size").value + "px"));
  byId("commands").addEventListener("click", () => {
    const lines = cells.filter((_, n) => isBest(n)).map((cell) => cell.command).filter(Boolean);
    copy(lines.join("\n") + "\n", lines.length === 1 ? "The command is" : lines.length + " commands are");
  });
  byId("save").addEventListener("click", () => {
    const chosen = cells.filter((_, n) => isBest(n));
    const lines = chosen.map(({ name, id, file, seed, command }) => ({ name, id, file, seed, command }));
    const text = JSON.stringify({ title: data.title, chosen: lines }, null, 2) + "\n";
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "chosen.json";
    link.click();
    URL.revokeObjectURL(link.href);
    say("The choice is saved as chosen.json.");
  });
  byId("tools").hidden = false;
  document.documentElement.style.setProperty("--size", byId("size").value + "px");
  refresh();
  arrange();
})();

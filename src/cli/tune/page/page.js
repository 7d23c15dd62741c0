"use strict";
// Texts from outside are set as text alone, never as markup.
const at = (id) => document.getElementById(id);
const buttons = ["first", "second", "equal", "skip", "quit"];
let shown = 0;
let open = false;

function figure(number, side, row, name) {
  const box = document.createElement("figure");
  const image = document.createElement("img");
  image.alt = `picture ${side + 1}` + (name ? `: ${name}` : "");
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth <= 160));
  image.src = `picture/${number}/${side}/${row}`;
  box.append(image);
  if (name) {
    const caption = document.createElement("figcaption");
    caption.textContent = name;
    box.append(caption);
  }
  return box;
}

function allow(yes) {
  open = yes;
  for (const id of buttons) at(id).disabled = !yes;
  at("pair").setAttribute("aria-busy", String(!yes));
}

function show(state) {
  shown = state.number;
  for (const [side, id] of ["first", "second"].entries()) {
    const box = at(id).querySelector(".pictures");
    const figures = Array.from({ length: state.pictures }, (_, row) => figure(state.number, side, row, state.rows[row]));
    box.classList.toggle("many", state.pictures > 1);
    box.replaceChildren(...figures);
    at(id).classList.remove("chosen");
  }
  at("count").textContent = `${state.number} of at most ${state.most}`;
  at("answers").max = state.most;
  at("answers").value = state.number - 1;
  const sure = Math.round(100 * (state.sure ?? 0));
  at("best").textContent = state.best ? `Best so far, ${sure} % sure: ${state.best}` : "";
  at("before").textContent = state.before ? `The pair before: 1 was ${state.before[0]}, 2 was ${state.before[1]}` : "";
  at("drawing").textContent = "";
  allow(true);
}

function end(text) {
  allow(false);
  document.querySelector("h1").textContent = text;
  at("answers").value = at("answers").max;
  at("drawing").textContent = "You can close this page; the result is in the terminal.";
}

async function look() {
  try {
    const state = await (await fetch("state")).json();
    if (state.over) return end("Done");
    if (state.open && state.number !== shown) show(state);
    if (!state.open) {
      const part = state.drawing === null ? "" : ` ${Math.round(100 * state.drawing)} %`;
      at("drawing").textContent = `drawing the next pair …${part}`;
    }
  } catch {
    return end("The search has ended");
  }
  setTimeout(look, open ? 1000 : 150);
}

async function choose(chosen) {
  if (!open) return;
  allow(false);
  if (chosen === "first" || chosen === "second") at(chosen).classList.add("chosen");
  const body = JSON.stringify({ number: shown, chosen });
  try {
    await fetch("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  } catch {
    end("The search has ended");
  }
}

const keys = {
  ArrowLeft: "first", 1: "first", ArrowRight: "second", 2: "second",
  "=": "equal", ArrowDown: "equal", s: "skip", q: "quit",
};
addEventListener("keydown", (event) => {
  const chosen = keys[event.key];
  if (!chosen || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  event.preventDefault();
  choose(chosen);
});
for (const id of buttons) at(id).addEventListener("click", () => choose(id));
look();

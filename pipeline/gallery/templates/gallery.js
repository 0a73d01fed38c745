"use strict";
const facts = JSON.parse(document.querySelector("main").dataset.facts);
const byId = (id) => document.getElementById(id);
const [height, width] = facts.size;
document.body.style.setProperty("--ratio", `${width} / ${height}`);
document.body.style.setProperty("--film", `${facts.most * width} / ${height}`);
let chosen = 0;

const wish = (more) => {
  const words = { first: byId("first").value, second: byId("second").value, ...more };
  if (byId("prompt")) words.prompt = byId("prompt").value;
  else if (facts.classes) words.class = byId("class") ? byId("class").value : chosen;
  return "/image?" + new URLSearchParams(words);
};

// One request at a time for each picture: what is asked for meanwhile, the last of it, comes next.
class Picture {
  constructor(image, box) {
    this.image = image;
    this.box = box;
    this.busy = false;
    this.next = null;
    const across = box ? 1 : facts.most;
    image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 128 * across));
  }
  async ask(address) {
    this.next = address;
    if (this.busy) return;
    this.busy = true;
    while (this.next) {
      const address = this.next;
      this.next = null;
      try {
        await this.show(await fetch(address));
      } catch (error) {
        byId("error").textContent = "No answer: is the job still running?";
      }
    }
    this.busy = false;
    if (this.box) this.box.classList.remove("waiting");
  }
  async show(answer) {
    if (!answer.ok) {
      byId("error").textContent = (await answer.json()).error;
      return;
    }
    byId("error").textContent = "";
    const before = this.image.src;
    this.image.src = URL.createObjectURL(await answer.blob());
    if (before.startsWith("blob:")) URL.revokeObjectURL(before);
    if (this.box) {
      const ms = parseFloat(answer.headers.get("Server-Timing").split("dur=")[1]);
      this.box.querySelector(".time").textContent = ms < 1000 ? `${ms.toPrecision(3)} ms` : `${(ms / 1000).toPrecision(3)} s`;
    }
  }
}

const student = new Picture(document.querySelector("#student img"), byId("student"));
const teacher = new Picture(document.querySelector("#teacher img"), byId("teacher"));
const film = new Picture(byId("film"), null);
let pause = null;

const walk = () => {
  const at = byId("at").value;
  student.ask(wish({ by: "student", at }));
  byId("teacher").classList.add("waiting");
  clearTimeout(pause);
  pause = setTimeout(() => teacher.ask(wish({ by: "teacher", at })), 250);
};
const all = () => {
  film.ask(wish({ by: "student", at: 0, count: facts.most }));
  walk();
};

byId("at").addEventListener("input", walk);
for (const id of ["first", "second", "class"]) if (byId(id)) byId(id).addEventListener("input", all);
let typing = null;
if (byId("prompt")) {
  byId("prompt").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(all, 500); });
}
for (const button of document.querySelectorAll("[data-roll]")) {
  button.addEventListener("click", () => {
    byId(button.dataset.roll).value = Math.floor(Math.random() * 100000);
    all();
  });
}
for (const button of document.querySelectorAll("[data-class]")) {
  button.addEventListener("click", () => {
    chosen = Number(button.dataset.class);
    for (const each of document.querySelectorAll("[data-class]")) {
      each.setAttribute("aria-pressed", String(each === button));
    }
    all();
  });
}
all();

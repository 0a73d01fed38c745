"use strict";
// Sample grids over time: a slider shows one step; a button plays them.
for (const slider of document.querySelectorAll(".slider")) {
  const range = slider.querySelector("input");
  const shown = slider.querySelector("output");
  const button = slider.querySelector("button");
  const frames = [...slider.querySelectorAll(".frame")];
  let timer = null;
  const show = () => {
    const chosen = Number(range.value);
    frames.forEach((frame) => { frame.hidden = Number(frame.dataset.index) !== chosen; });
    const name = frames.find((frame) => !frame.hidden).dataset.name;
    shown.textContent = name;
    range.setAttribute("aria-valuetext", name);
  };
  const stop = () => { clearInterval(timer); timer = null; button.textContent = "Play"; };
  range.addEventListener("input", () => { stop(); show(); });
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (range.value === range.max) { range.value = 0; show(); }
    button.textContent = "Pause";
    timer = setInterval(() => {
      range.value = Number(range.value) + 1;
      show();
      if (range.value === range.max) stop();
    }, 450);
  });
  show();
}
// Charts: the legend shows the values under the pointer.
for (const chart of document.querySelectorAll(".chart")) {
  const lines = JSON.parse(chart.dataset.values);
  const area = chart.querySelector(".area");
  const cursor = chart.querySelector(".cursor");
  const place = chart.querySelector(".place");
  const cells = [...chart.querySelectorAll(".legend b[data-line]")];
  const last = cells.map((cell) => cell.textContent);
  const end = place.textContent;
  const nearest = (xs, x) => {
    let best = 0;
    xs.forEach((each, i) => { if (Math.abs(each - x) < Math.abs(xs[best] - x)) best = i; });
    return best;
  };
  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const x = Math.min(100, Math.max(0, 100 * (event.clientX - box.left) / box.width));
    const places = lines.map((line) => nearest(line.x, x));
    cells.forEach((cell, i) => {
      const near = Math.abs(lines[i].x[places[i]] - x) < 6;
      cell.textContent = near || lines[i].x.length <= 2 ? lines[i].y[places[i]] : "–";
    });
    let closest = 0;
    lines.forEach((line, i) => {
      const far = (n) => Math.abs(lines[n].x[places[n]] - x);
      if (far(i) < far(closest)) closest = i;
    });
    cursor.style.left = lines[closest].x[places[closest]] + "%";
    cursor.style.display = "block";
    place.textContent = lines[closest].at[places[closest]];
  });
  area.addEventListener("pointerleave", () => {
    cursor.style.display = "none";
    place.textContent = end;
    cells.forEach((cell, i) => { cell.textContent = last[i]; });
  });
}

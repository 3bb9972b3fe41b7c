"use strict";

// Tables are sorted by the button in a column's head. Cells without a figure go last in both directions.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => {
      const cell = row.cells[column];
      return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
    };
    const compare = (a, b) => {
      if (typeof a === "string") return (down ? -1 : 1) * a.localeCompare(b, undefined, { numeric: true });
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return a === b ? 0 : (down ? -1 : 1) * (a < b ? -1 : 1);
    };
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  });
}

// A slider shows one version on its left and another one on its right. Without scripts, all stand side by side.
for (const slider of document.querySelectorAll(".slider")) {
  const images = slider.parentElement.querySelectorAll(".crops img");
  const [under, over] = slider.querySelectorAll(".stack img");
  const [left, right] = slider.querySelectorAll("select");
  const range = slider.querySelector("input");
  const show = () => {
    for (const [image, choice] of [[over, left], [under, right]]) {
      image.src = images[choice.value].src;
      image.alt = images[choice.value].alt;
    }
    slider.style.setProperty("--at", `${range.value}%`);
    const names = [left, right].map((choice) => choice.selectedOptions[0].text);
    range.setAttribute("aria-valuetext", `${range.value} % ${names[0]}, ${100 - range.value} % ${names[1]}`);
  };
  for (const control of [left, right, range]) control.addEventListener("input", show);
  slider.hidden = false;
  show();
}
addEventListener("beforeprint", () => { // on paper nothing can be opened
  for (const details of document.querySelectorAll("details")) details.open = true;
});

"use strict";

// Tables are sorted by the button in a column's head.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement;
    const column = [...head.parentElement.children].indexOf(head);
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = head.closest("table").tBodies[0];
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [Number(a), Number(b)];
      const numbers = a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y);
      return numbers ? (x === y ? 0 : x - y) : a.localeCompare(b);
    };
    const rows = [...body.rows].sort((a, b) => compare(value(a), value(b)));
    body.append(...(down ? rows.reverse() : rows));
  });
}

// A slider shows one version left of it and another one on its right. Without scripts the versions stand side by side.
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
    over.style.clipPath = `inset(0 ${100 - range.value}% 0 0)`;
  };
  for (const control of [left, right, range]) control.addEventListener("input", show);
  slider.hidden = false;
  show();
}

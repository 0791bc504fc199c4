"use strict";
const table = document.getElementById("runs-table");
const body = table.tBodies[0];
const rows = Array.from(body.rows);
const heads = Array.from(table.tHead.rows[0].cells);
const key = (row, column) => row.cells[column].dataset.sort;
const compare = (a, b, numeric) => {
  if (a === b) return 0;
  if (a === "" || b === "") return a === "" ? 1 : -1;
  return numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
};
heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const numeric = head.classList.contains("num");
  const now = head.getAttribute("aria-sort");
  const falling = now === null ? numeric : now === "ascending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  rows.sort((a, b) => {
    const [first, second] = [key(a, column), key(b, column)];
    const order = compare(first, second, numeric);
    return falling && first !== "" && second !== "" ? -order : order;
  });
  body.append(...rows);
}));
const filter = document.getElementById("filter");
const shown = document.getElementById("shown");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const row of rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    count += row.hidden ? 0 : 1;
  }
  shown.textContent = count === rows.length ? "" : `${count} of ${rows.length} runs`;
});
document.getElementById("tools").hidden = false;

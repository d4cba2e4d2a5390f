"use strict";
document.documentElement.classList.add("scripted");

// Sorting: numbers as numbers, text as text, nothing last in both directions.
function sortBy(table, index, descending) {
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => {
    const cell = row.cells[index];
    const key = cell.dataset.key === undefined ? cell.textContent.trim() : cell.dataset.key;
    return { row, key, number: Number(key) };
  });
  const empty = (entry) => entry.key === "";
  const numeric = rows.every((entry) => empty(entry) || !Number.isNaN(entry.number));
  rows.sort((a, b) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b);
    const order = numeric ? a.number - b.number : a.key.localeCompare(b.key, "en", { numeric: true });
    return descending ? -order : order;
  });
  body.append(...rows.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, index) => {
    head.querySelector("button").addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, index, descending);
    });
  });
}

// Filters: a row is shown if the level of each of its factors is ticked.
const boxes = Array.from(document.querySelectorAll(".filters input"));
function applyFilters() {
  const off = new Map();
  for (const box of boxes) {
    if (!box.checked) off.set(box.name, (off.get(box.name) || new Set()).add(box.value));
  }
  const hidden = (levels) => Array.from(off).some(([factor, names]) => factor in levels && names.has(levels[factor]));
  for (const one of document.querySelectorAll("[data-levels]")) one.hidden = hidden(JSON.parse(one.dataset.levels));
  for (const table of document.querySelectorAll("table.sortable")) {
    const rows = Array.from(table.tBodies[0].rows);
    const shown = rows.filter((row) => !row.hidden).length;
    const status = document.getElementById("status-" + table.id);
    if (status) status.textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  }
}
boxes.forEach((box) => box.addEventListener("change", applyFilters));
for (const button of document.querySelectorAll(".filters button")) {
  button.addEventListener("click", () => {
    for (const box of button.closest("fieldset").querySelectorAll("input")) box.checked = button.value === "all";
    applyFilters();
  });
}
applyFilters();

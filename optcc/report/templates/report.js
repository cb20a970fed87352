"use strict";
document.documentElement.classList.add("js");
for (const box of document.querySelectorAll("[data-grid]")) {
  const body = box.querySelector("tbody"), rows = [...body.rows], told = box.querySelector("output");
  const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  box.querySelector("input").addEventListener("input", (event) => {
    const wanted = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      row.hidden = !wanted.every((word) => words.get(row).includes(word));
      if (!row.hidden) shown += 1;
    }
    told.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  });
  const heads = [...box.querySelectorAll("th[scope=col]")];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending", numeric = head.classList.contains("n");
    const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent;
    const by = numeric
      ? (a, b) => (key(a) === "" ? Infinity : Number(key(a))) - (key(b) === "" ? Infinity : Number(key(b)))
      : (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    body.append(...[...rows].sort((a, b) => (up ? by(a, b) : by(b, a))));
  }));
}
addEventListener("beforeprint", () => document.querySelectorAll("details.more").forEach((d) => d.open = d.querySelectorAll("tr").length < 40));

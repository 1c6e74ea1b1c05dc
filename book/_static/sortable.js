// Tables of class "sortable": a click on a column's title, or Enter on it, sorts the rows; a
// second one turns the order round. Numbers sort by their value ("0.512 ± 0.012" by 0.512), and
// cells without one ("-") stay last. No library, no network.
(function () {
  "use strict";

  const NUMBER = /^[<>~]?\s*([+-]?(?:\d[\d,]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)/i;

  function key(row, column) {
    const text = row.cells[column].textContent.trim();
    const match = NUMBER.exec(text);
    return { text: text, number: match ? Number(match[1].replace(/,/g, "")) : NaN };
  }

  function compare(a, b, numeric, sign) {
    if (!numeric) return sign * a.text.localeCompare(b.text);
    if (isNaN(a.number) || isNaN(b.number)) return isNaN(a.number) - isNaN(b.number);
    return sign * (a.number - b.number);
  }

  function sort(table, column, ascending) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows).map((row) => ({ row: row, key: key(row, column) }));
    const numbers = rows.filter((each) => !isNaN(each.key.number)).length;
    const numeric = column > 0 && numbers * 2 >= rows.length;
    rows.sort((a, b) => compare(a.key, b.key, numeric, ascending ? 1 : -1));
    rows.forEach((each) => body.appendChild(each.row));
  }

  function prepare(table) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const ascending = head.getAttribute("aria-sort") !== "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sort(table, column, ascending);
      });
    });
  }

  function start() {
    document.querySelectorAll("table.sortable").forEach((table) => {
      if (table.tHead && table.tBodies.length) prepare(table);
    });
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();

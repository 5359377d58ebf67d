document.documentElement.classList.add("js");
document.querySelectorAll("table.sortable button").forEach(function (button) {
  button.addEventListener("click", function () {
    var head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
    var up = head.getAttribute("aria-sort") !== "ascending", col = Number(button.dataset.col);
    table.querySelectorAll("th[aria-sort]").forEach(function (th) { th.removeAttribute("aria-sort"); });
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    Array.from(body.rows).map(function (row) { return [row.cells[col].dataset.v, row]; }).sort(function (a, b) {
      if (a[0] === "" || b[0] === "") { return (a[0] === "") - (b[0] === ""); }
      var order = a[0] - b[0];
      if (isNaN(order)) { order = a[0].localeCompare(b[0]); }
      return up ? order : -order;
    }).forEach(function (pair) { body.appendChild(pair[1]); });
  });
});
addEventListener("beforeprint", function () {
  document.querySelectorAll("details").forEach(function (part) { part.open = true; });
});

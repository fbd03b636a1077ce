"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const narrow = matchMedia("(max-width: 600px)");
const drawn = [];

// Colours of text and grid follow the page; those of the data are chosen to be read on both.
function colours(figure) {
  const style = getComputedStyle(document.documentElement), of = name => style.getPropertyValue(name).trim();
  const found = {"font.color": of("--fg"), paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    "legend.bgcolor": "rgba(0,0,0,0)", "hoverlabel.bgcolor": of("--soft"), "hoverlabel.bordercolor": of("--line"),
    "hoverlabel.font.color": of("--fg"), "hoverlabel.align": "left"};
  for (const key of Object.keys(figure.layout).filter(name => /^[xy]axis\d*$/.test(name))) {
    found[key + ".gridcolor"] = of("--grid");
    found[key + ".zerolinecolor"] = of("--grid");
    found[key + ".linecolor"] = of("--line");
  }
  return found;
}

function offer(place, figure) {
  const group = document.createElement("div");
  group.className = "choices";
  figure.views.forEach((view, index) => {
    const label = document.createElement("label"), button = document.createElement("input");
    button.type = "radio";
    button.name = place.id + "-view";
    button.checked = index === 0;
    button.addEventListener("change", () => Plotly.update(place, view.data, view.layout));
    label.append(button, " " + view.name);
    group.append(label);
  });
  place.before(group);
}

function draw(place, figure) {
  if (figure.views && figure.views.length > 1) offer(place, figure);
  if (narrow.matches && figure.narrow) Object.assign(figure.layout, figure.narrow);
  const axes = {automargin: true, ...(narrow.matches ? {nticks: 5} : {})};
  for (const key of Object.keys(figure.layout).filter(name => /^[xy]axis\d*$/.test(name))) {
    figure.layout[key] = {...axes, ...figure.layout[key]};
  }
  const options = {responsive: true, displaylogo: false, displayModeBar: false};
  Plotly.newPlot(place, figure.data, figure.layout, options).then(() => Plotly.relayout(place, colours(figure)));
  drawn.push([place, figure]);
}

for (const data of document.querySelectorAll("script[data-for]")) {
  draw(document.getElementById(data.dataset.for), JSON.parse(data.textContent));
}
dark.addEventListener("change", () => drawn.forEach(([place, figure]) => Plotly.relayout(place, colours(figure))));

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const key = row => numeric ? Number(row.cells[column].dataset.key) : row.cells[column].dataset.key;
      const rows = [...body.rows].sort((a, b) => key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
      body.append(...(up ? rows : rows.reverse()));
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}

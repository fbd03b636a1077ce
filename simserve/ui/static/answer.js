"use strict";
// A result: the answer, every run in a table and a figure, all of one run, the report, the files.
const COLUMNS = [
  ["#", run => run.index + 1, "number"], ["deployment", run => run.configuration, "words"], ["GPUs", run => run.num_gpus, "number"],
  ["tokens/s per GPU", run => run.tokens_per_s_per_gpu, "number"], ["TTFT, ms", run => run.ttft_ms, "number"],
  ["TPOT, ms", run => run.tpot_ms, "number"], ["USD/h", run => run.usd_per_hour, "number"],
  ["USD per M tokens", run => run.usd_per_million_tokens, "number"], ["SLO", run => run.verdict, ""],
];

async function answer(name) {
  const found = await ask(`/api/searches/${name}/result`);
  if (name !== watched) return;
  $("live").hidden = true;
  $("answer").hidden = false;
  $("run-title").textContent = `${found.name}: ${found.model}`;
  $("lead").textContent = found.recommended === null ? found.lead : `Run ${found.lead}`;
  $("lead").className = `lead ${found.recommended === null ? "bad" : ""}`;
  $("scope").textContent = `${found.scope}.`;
  shownActions(name);
  const runs = found.runs.map((run, index) => ({...run, index}));
  scatter($("front"), runs, found.slo, found.recommended, index => details(name, index));
  table(name, runs);
  shownFiles(name, found.files);
  $("details").replaceChildren();
  $("tiles").replaceChildren();
  await details(name, found.recommended ?? 0, true);
}

function shownActions(name) {
  $("actions").replaceChildren(
    make("button", {type: "button", onclick: async () => {
      const {yaml} = await ask(`/api/searches/${name}`);
      location.hash = "#new";
      edit(yaml);
    }}, "Ask again with changes"),
    make("a", {class: "button", href: `/files/${name}/result.json`, download: `${name}.json`}, "result.json"),
    make("a", {class: "button", href: `/files/${name}/runs.csv`, download: `${name}.csv`}, "runs.csv"));
}

function shownFiles(name, files) {
  const report = files.includes("report.html");
  $("report").hidden = $("report-link").hidden = !report;
  if (report) $("report").src = $("report-link").href = `/files/${name}/report.html`;
  $("files").replaceChildren(...files.map(file => make("li", {}, make("a", {href: `/files/${name}/${file}`, download: file.split("/").pop()}, file))));
}

function table(name, runs) {
  const body = make("tbody", {});
  const fill = rows => body.replaceChildren(...rows.map(run => make("tr", {
    tabindex: "0", "data-index": run.index, onclick: () => details(name, run.index),
    onkeydown: event => { if (event.key === "Enter") details(name, run.index); },
  }, ...COLUMNS.map(([title, of, kind]) => make("td", {class: kind}, kind === "number" ? number(of(run), title === "tokens/s per GPU" ? 4 : 3) : of(run))))));
  const heads = COLUMNS.map(([title, of, kind]) => {
    const head = make("th", {class: kind, scope: "col"});
    head.append(make("button", {type: "button", onclick: () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = run => of(run) ?? Infinity;
      const rows = [...runs].sort((a, b) => key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
      fill(up ? rows : rows.reverse());
    }}, title));
    return head;
  });
  fill(runs);
  $("runs").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), body);
}

const tiles = pairs => pairs.map(([text, what]) => make("div", {class: "tile"}, make("b", {}, text), make("span", {}, what)));
const percent = share => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

async function details(name, index, first = false) {
  const found = await ask(`/api/searches/${name}/runs/${index + 1}`);
  if (first) $("tiles").replaceChildren(...tiles(found.tiles));
  for (const row of $("runs").querySelectorAll("tr[data-index]")) row.classList.toggle("shown", Number(row.dataset.index) === index);
  const stats = ["mean", "p50", "p90", "p95", "p99"];
  const rows = Object.entries(found.latencies).map(([what, own]) => make("tr", {}, make("td", {}, what.toUpperCase()),
    ...stats.map(stat => make("td", {class: "number"}, number(own[stat])))));
  const copy = make("button", {type: "button", onclick: async () => {
    await navigator.clipboard.writeText(found.launch);
    copy.textContent = "Copied";
  }}, "Copy");
  const parts = [
    make("h3", {}, `${index + 1}. ${found.configuration}`),
    ...(first ? [] : [make("div", {class: "tiles"}, ...tiles(found.tiles))]),
    make("p", {class: found.verdict === "met" || !found.verdict ? "good" : "bad"}, found.verdict === "met" ? "Keeps the SLO" : found.verdict),
    make("ul", {}, ...found.why.map(line => make("li", {}, line))),
    make("div", {class: "wide"}, make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "ms"),
      ...stats.map(stat => make("th", {class: "number"}, stat)))), make("tbody", {}, ...rows))),
    found.interval && make("p", {}, `90 % interval: ${found.interval.ranges.map(([what, low, high]) => `${what} ${number(low)} to ${number(high)}`).join("; ")} (${found.interval.rests_on.join("; ")})`),
    make("p", {}, `Kernel numbers: ${found.sources.map(([source, share]) => `${percent(share)} ${source}`).join(", ")}. ${found.energy ?? ""}`),
    found.launch && make("h3", {}, "Launch ", copy), found.launch && make("pre", {}, found.launch),
    make("details", {}, make("summary", {}, "Deployment as in a study file"), make("pre", {}, found.deployment)),
  ];
  $("details").replaceChildren(...parts.filter(part => part));
  if (!first) $("details").focus();
}

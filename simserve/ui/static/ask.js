"use strict";
// The form, and the study file that it is.
const FIELDS = ["model", "gpus", "rate", "cv", "concurrency", "isl", "osl", "requests", "ttft", "tpot", "percentile", "objective",
  "trials", "seed"];
const COUNTS = ["gpus", "concurrency", "isl", "osl", "requests", "trials", "seed"], NUMBERS = ["rate", "cv", "percentile"];
let byHand = false, tracePath = null, asked = 0, timer = 0;

async function begin() {
  const found = await ask("/api/choices");
  $("models").append(...found.models.map(name => make("option", {value: name})));
  $("gpu").append(...found.gpus.map(gpu => make("label", {},
    make("input", {type: "checkbox", value: gpu.name, checked: found.defaults.gpu.includes(gpu.name)}),
    make("b", {title: gpu.title}, gpu.name),
    make("span", {class: "unit"}, `${gpu.gib} GiB, ${gpu.usd_per_hour.toFixed(2)} USD/h`))));
  const chosen = found.defaults.gpu.map(name => [...$("gpu").children].find(row => row.querySelector("input").value === name));
  $("gpu").prepend(...chosen);
  for (const name of FIELDS) $(name).value = found.defaults[name];
  document.querySelector(`input[name=load][value=${found.defaults.load}]`).checked = true;
  shownLoad();
  await refresh();
}

const load = () => document.querySelector("input[name=load]:checked").value;

function shownLoad() {
  for (const part of document.querySelectorAll("[data-load]")) part.hidden = !part.dataset.load.split(" ").includes(load());
}

// A number where the field holds one; what does not is sent as it stands, for the server to say what is wrong with it.
function value(name) {
  const text = $(name).value.trim();
  if (!COUNTS.includes(name) && !NUMBERS.includes(name)) return text;
  return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

function form() {
  const found = Object.fromEntries(FIELDS.map(name => [name, value(name)]));
  return {...found, load: load(), trace: tracePath,
    gpu: [...$("gpu").querySelectorAll("input:checked")].map(box => box.value)};
}

function forgive() {
  $("problem").textContent = "";
  for (const element of document.querySelectorAll(".because")) element.remove();
  for (const element of document.querySelectorAll(".wrong")) {
    element.classList.remove("wrong");
    element.removeAttribute("aria-describedby");
    element.removeAttribute("aria-invalid");
  }
}

// The message beside its field, or above the button where no field is to blame.
function blame(mistake) {
  forgive();
  const field = mistake.field && $(mistake.field);
  if (!field || !field.offsetParent) {
    $("problem").textContent = mistake.message;
    return;
  }
  const id = `because-${mistake.field}`;
  field.classList.add("wrong");
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", id);
  field.after(make("span", {class: "because", id, role: "alert"}, mistake.message));
  if (field === $("yaml") && mistake.line) select(mistake.line);
}

// Shows a line of the study's text.
function select(line) {
  const lines = $("yaml").value.split("\n"), start = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  $("yaml").focus();
  $("yaml").setSelectionRange(start, start + lines[line - 1].length);
  $("yaml").scrollTop = $("yaml").scrollHeight * (line - 4) / lines.length;
}

async function refresh() {
  if (byHand) return;
  const turn = ++asked;
  try {
    const found = await ask("/api/study", form());
    if (turn !== asked) return;
    forgive();
    $("yaml").value = found.yaml;
  } catch (mistake) {
    if (turn === asked) blame(mistake);
  }
}

async function sent(file, name) {
  if (file.name.endsWith(".gz")) {
    const plain = new Response(file.stream().pipeThrough(new DecompressionStream("gzip")));
    return ask("/api/files", {name: name.replace(/\.gz$/, ""), text: await plain.text()});
  }
  return ask("/api/files", {name, text: await file.text()});
}

const safe = name => name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+/, "");

$("config").addEventListener("change", async event => {
  const [file] = event.target.files;
  if (!file) return;
  try {
    $("model").value = (await sent(file, safe(file.name))).path;
    await refresh();
  } catch (mistake) {
    blame(new Mistake({message: mistake.message, field: "model"}));
  }
});

$("trace").addEventListener("change", async event => {
  const [file] = event.target.files;
  tracePath = null;
  $("trace-about").textContent = "";
  if (!file) return;
  try {
    const found = await sent(file, safe(file.name));
    tracePath = found.path;
    $("trace-about").textContent = found.about;
    await refresh();
  } catch (mistake) {
    blame(new Mistake({message: mistake.message, field: "trace"}));
  }
});

$("form").addEventListener("input", event => {
  if (event.target.id === "yaml") {
    byHand = true;
    $("edited").hidden = false;
    forgive();
    return;
  }
  if (event.target.id === "filter") {
    const wanted = event.target.value.trim().toLowerCase();
    for (const row of $("gpu").children) row.hidden = !`${row.textContent} ${row.querySelector("b").title}`.toLowerCase().includes(wanted);
    return;
  }
  if (event.target.type === "file") return;
  shownLoad();
  clearTimeout(timer);
  timer = setTimeout(refresh, 250);
});

function edit(text) {
  $("yaml").value = text;
  byHand = true;
  $("edited").hidden = false;
  $("study").open = true;
}

$("restore").addEventListener("click", () => {
  byHand = false;
  $("edited").hidden = true;
  refresh();
});
$("open").addEventListener("change", async event => {
  const [file] = event.target.files;
  if (file) edit(await file.text());
});
$("download").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([$("yaml").value], {type: "application/yaml"}));
  make("a", {href: address, download: "study.yaml"}).click();
  URL.revokeObjectURL(address);
});
$("form").addEventListener("submit", async event => {
  event.preventDefault();
  $("search").disabled = true;
  try {
    if (!byHand) $("yaml").value = (await ask("/api/study", form())).yaml;
    const found = await ask("/api/searches", {yaml: $("yaml").value});
    forgive();
    location.hash = `#run=${found.name}`;
  } catch (mistake) {
    if (byHand) $("study").open = true;
    blame(byHand ? new Mistake({message: mistake.message, field: "yaml", line: mistake.line}) : mistake);
  }
  $("search").disabled = false;
});

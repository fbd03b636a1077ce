"use strict";
// Which part of the page is shown: #new, #earlier, #run=NAME.
async function shown() {
  const [asked, name] = location.hash.slice(1).split("="), page = ["run", "earlier"].includes(asked) ? asked : "new";
  leave();
  for (const id of ["new", "run", "earlier"]) $(id).hidden = id !== page;
  try {
    if (page === "run") await watch(decodeURIComponent(name));
    if (page === "earlier") await earlier();
  } catch (mistake) {
    $("live").hidden = false;
    ended({state: "failed", message: mistake.message});
  }
  scrollTo(0, 0);
}

async function earlier() {
  const found = await ask("/api/searches");
  const heads = ["search", "state", "recommended", "tokens/s per GPU", "USD per M tokens", "GPUs"];
  const rows = found.map(one => make("tr", {},
    make("td", {}, make("a", {href: `#run=${one.name}`}, one.name)), make("td", {}, one.state),
    make("td", {class: "words"}, one.lead ?? ""),
    ...["tokens_per_s_per_gpu", "usd_per_million_tokens", "num_gpus"].map(key =>
      make("td", {class: "number"}, one.best ? number(one.best[key], key === "tokens_per_s_per_gpu" ? 4 : 3) : ""))));
  $("searches").replaceChildren(
    make("thead", {}, make("tr", {}, ...heads.map((head, at) => make("th", {class: at > 2 ? "number" : ""}, head)))),
    make("tbody", {}, ...rows));
  if (!rows.length) $("searches").replaceChildren(make("caption", {}, "None yet."));
}

addEventListener("hashchange", shown);
begin().catch(blame).then(shown);

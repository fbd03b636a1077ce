"use strict";
// A search while it runs: points as they come, how far it is, stop and resume.
let stream = null, watched = "";

function leave() {
  stream?.close();
  stream = null;
}

async function watch(name) {
  leave();
  watched = name;
  $("run-title").textContent = name;
  $("answer").hidden = $("live").hidden = true;
  const found = await ask(`/api/searches/${name}`);
  if (found.state === "done") return answer(name);
  $("live").hidden = false;
  $("best").textContent = "";
  ended(found);
  follow(name, found.slo);
}

function follow(name, slo) {
  const runs = [], start = performance.now();
  let first = null, waiting = false;
  Plotly.purge($("points"));
  drawn.delete($("points"));
  stream = new EventSource(`/api/searches/${name}/events`);
  stream.onmessage = event => {
    const line = JSON.parse(event.data);
    if (line.run) runs.push(line.run);
    first ??= line.done;
    $("bar").value = line.of ? line.done / line.of : 0;
    const each = (performance.now() - start) / 1000 / Math.max(1, line.done - first);
    const left = line.done > first ? `, about ${Math.max(1, Math.round(each * (line.of - line.done)))} s left` : "";
    const rest = line.done >= line.of ? "; the best are played once more for the report" : left;
    $("status").textContent = `${line.done} of ${line.of} deployments simulated${rest}`;
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(() => { waiting = false; if (runs.length) shownPoints(runs, slo); });
    }
  };
  stream.addEventListener("end", async event => {
    leave();
    const found = JSON.parse(event.data);
    ended(found);
    if (found.state === "done") await answer(name).catch(mistake => ended({state: "failed", message: mistake.message}));
  });
  stream.onerror = () => { $("status").textContent = "simserve does not answer; is `simserve ui` still running?"; };
}

function shownPoints(runs, slo) {
  const good = runs.map((run, index) => [run, index]).filter(([run]) => run.meets_slo);
  const best = good.reduce((a, b) => !a || b[0].tokens_per_s_per_gpu > a[0].tokens_per_s_per_gpu ? b : a, null);
  scatter($("points"), runs, slo, best ? best[1] : -1);
  $("best").textContent = best ? `Highest throughput so far: ${best[0].configuration}` : "Nothing has met the SLO yet.";
}

function ended({state, message, resumable}) {
  const words = {running: "Beginning: the whole space is screened first", stopped: "Stopped; what was simulated is kept",
    failed: message || "Ended without a word, as a process does that is killed or runs out of memory", done: "Done"};
  $("status").textContent = words[state];
  $("status").className = state === "failed" ? "problem" : "";
  $("stop").hidden = state !== "running";
  $("resume").hidden = !resumable;
  $("bar").hidden = state === "failed" && !resumable;
}

$("stop").addEventListener("click", async () => {
  $("stop").disabled = true;
  $("status").textContent = "Stopping";
  await ask(`/api/searches/${watched}/stop`, {}).catch(mistake => { $("status").textContent = mistake.message; });
  $("stop").disabled = false;
});
$("resume").addEventListener("click", async () => {
  try {
    await ask(`/api/searches/${watched}/resume`, {});
    await watch(watched);
  } catch (mistake) {
    $("status").textContent = mistake.message;
  }
});

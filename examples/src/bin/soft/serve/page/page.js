"use strict";
// A chat that shows which exit produced every token, and a view of the best next token at every depth.

const $ = (id) => document.getElementById(id);
let base = "", exits = [], costs = {}, full = 0, messages = [], running = null, key = "";

// Viridis, from shallow to deep: ordered by lightness, so that it reads without color vision too.
const SHADES = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];

function paint(element, share) {
  const index = Math.round(share * (SHADES.length - 1));
  element.style.setProperty("--shade", SHADES[index]);
  element.style.setProperty("--on", index < 4 ? "#fff" : "#000");
}

const shareOf = (exit) => (exits.length > 1 ? Math.max(0, exits.indexOf(exit)) / (exits.length - 1) : 1);

function notify(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

async function request(path, body, signal) {
  const headers = {};
  if (body) headers["content-type"] = "application/json";
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  if (response.ok) return response;
  if (response.status === 401) $("key-form").hidden = false;
  const error = await response.json().catch(() => null);
  throw new Error(error?.error?.message ?? `the server answered ${response.status}`);
}

async function load() {
  const list = (await (await request("/v1/models")).json()).data;
  base = list[0].id;
  full = list[0].depth;
  $("name").textContent = base;
  exits = list.filter((model) => model.ms_per_token !== undefined).map((model) => model.depth);
  exits.sort((a, b) => a - b);
  costs = Object.fromEntries(list.map((model) => [model.depth, model.ms_per_token]));
  const modes = list.map((model) => model.id.split("@").pop());
  for (const radio of document.querySelectorAll("input[name=mode]")) {
    radio.disabled = radio.value !== "plain" && !modes.includes(radio.value);
  }
  $("slider").max = exits.length - 1;
  $("slider").value = exits.length - 1;
  histogram({});
  describe();
}

const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

function describe() {
  const exit = exits[$("slider").value], byDepth = chosen("by") === "depth";
  const plain = chosen("mode") === "plain";
  $("slider-label").textContent = byDepth ? "Depth" : "At most";
  $("slider-value").textContent = byDepth ? `${exit} of ${full} blocks` : `${budget().toFixed(1)} ms per token`;
  $("slider").disabled = !plain;
  for (const radio of document.querySelectorAll("input[name=by]")) radio.disabled = !plain;
}

// A tenth above what the exit takes alone, so that noise does not choose another.
const budget = () => 1.1 * costs[exits[$("slider").value]];

function settings() {
  const mode = chosen("mode");
  if (mode !== "plain") return { model: `${base}@${mode}` };
  if (chosen("by") === "budget") return { model: base, max_ms_per_token: budget() };
  const exit = exits[$("slider").value];
  return { model: exit === full ? base : `${base}@${exit}` };
}

function addMessage(who) {
  const place = document.createElement("div");
  place.className = "message";
  const name = document.createElement("b");
  name.textContent = who;
  const text = document.createElement("span");
  place.append(name, text);
  $("messages").append(place);
  return text;
}

function addToken(place, text, exit, accepted) {
  const token = document.createElement("span");
  token.className = accepted ? "token accepted" : "token";
  token.textContent = text;
  token.title = accepted ? `drafted at exit ${exit}, accepted` : `exit ${exit}`;
  token.dataset.exit = exit;
  paint(token, shareOf(exit));
  place.append(token);
}

function histogram(counts) {
  const most = Math.max(1, ...Object.values(counts));
  $("histogram").replaceChildren(...exits.map((exit) => {
    const row = document.createElement("li");
    const label = document.createElement("span"), bar = document.createElement("span"), number = document.createElement("span");
    label.textContent = exit;
    bar.className = "bar";
    bar.style.width = `${(100 * (counts[exit] ?? 0)) / most}%`;
    paint(bar, shareOf(exit));
    number.className = "number";
    number.textContent = counts[exit] ?? 0;
    row.append(label, bar, number);
    return row;
  }));
}

function showFigures(figures) {
  const seconds = (figures.last - figures.first) / 1000;
  $("speed").textContent = figures.tokens > 1 ? ((figures.tokens - 1) / seconds).toFixed(1) : "–";
  $("depth").textContent = figures.tokens ? (figures.depths / figures.tokens).toFixed(1) : "–";
  $("accepted").textContent = figures.tokens ? `${figures.accepted} (${Math.round((100 * figures.accepted) / figures.tokens)} %)` : "–";
  $("count").textContent = figures.tokens;
  histogram(figures.counts);
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const parts = held.split("\n\n");
    held = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      if (part.startsWith("data: ")) yield JSON.parse(data);
    }
  }
}

async function ask(text) {
  // "New" begins another one while this answer ends.
  const talk = messages;
  talk.push({ role: "user", content: text });
  addMessage("You").textContent = text;
  const place = addMessage("Model");
  const figures = { tokens: 0, depths: 0, accepted: 0, counts: {}, first: 0, last: 0 };
  const body = {
    ...settings(), messages: talk, stream: true,
    temperature: Number($("temperature").value), max_tokens: Number($("max-tokens").value),
  };
  let answer = "";
  running = new AbortController();
  busy(true);
  try {
    for await (const event of events(await request("/v1/chat/completions", body, running.signal))) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0], piece = choice.delta.content ?? "";
      answer += piece;
      choice.exits.forEach((exit, index) => {
        figures.first ||= performance.now();
        figures.last = performance.now();
        figures.tokens += 1;
        figures.depths += exit;
        figures.accepted += choice.accepted[index];
        figures.counts[exit] = (figures.counts[exit] ?? 0) + 1;
        addToken(place, piece, exit, choice.accepted[index]);
      });
      if (!choice.exits.length && piece) place.append(piece);
      showFigures(figures);
      $("messages").scrollTop = $("messages").scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") notify(error.message);
  } finally {
    running = null;
    busy(false);
  }
  if (answer) talk.push({ role: "assistant", content: answer.trim() });
  else talk.pop();
}

function busy(is) {
  $("send").disabled = is;
  $("stop").hidden = !is;
}

async function look() {
  const prompt = $("lens-prompt").value;
  const view = await (await request("/v1/lens", { prompt })).json();
  const table = $("lens-table");
  const row = (cells) => {
    const line = document.createElement("tr");
    line.append(...cells);
    return line;
  };
  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
  const head = document.createElement("thead"), body = document.createElement("tbody");
  head.append(row([cell("th", "depth"), ...view.tokens.map((token) => cell("th", shown(token)))]));
  for (const depth of [...view.depths].reverse()) {
    const cells = depth.tokens.map((token, index) => {
      const probability = depth.probabilities[index];
      const place = cell("td", shown(token));
      place.title = `${(100 * probability).toFixed(1)} %`;
      paint(place, 1 - probability);
      return place;
    });
    body.append(row([cell("th", depth.depth), ...cells]));
  }
  table.replaceChildren(head, body);
}

const shown = (token) => (token.trim() ? token.replaceAll("\n", "⏎") : token.replaceAll(" ", "␣").replaceAll("\n", "⏎") || "∅");

function show(tab) {
  for (const name of ["chat", "lens"]) {
    $(name).hidden = name !== tab;
    $(`tab-${name}`).setAttribute("aria-selected", name === tab);
  }
}

const tried = (action) => async (event) => {
  event?.preventDefault();
  notify("");
  try {
    await action();
  } catch (error) {
    notify(error.message);
  }
};

addEventListener("DOMContentLoaded", () => {
  $("tab-chat").onclick = () => show("chat");
  $("tab-lens").onclick = () => show("lens");
  $("ask").onsubmit = tried(async () => {
    const text = $("prompt").value.trim();
    if (!text || running) return;
    $("prompt").value = "";
    await ask(text);
    $("prompt").focus();
  });
  $("prompt").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  };
  $("stop").onclick = () => running?.abort();
  $("clear").onclick = () => {
    running?.abort();
    messages = [];
    $("messages").replaceChildren();
    histogram({});
  };
  $("mark-drafts").onchange = () => $("messages").classList.toggle("drafts", $("mark-drafts").checked);
  $("slider").oninput = describe;
  for (const radio of document.querySelectorAll("input[type=radio]")) radio.onchange = describe;
  $("lens-form").onsubmit = tried(look);
  $("key-form").onsubmit = tried(async () => {
    key = $("key").value;
    await load();
    $("key-form").hidden = true;
  });
  tried(load)();
});

// The page: three views over the paths of docs/http.md.

import * as api from "./api.js";
import * as making from "./make.js";
import { answerOf, card, make, percent } from "./show.js";
import { tabs } from "./tabs.js";

const at = (id) => document.getElementById(id);
const chosen = { ask: null, left: null, right: null };
let pictures = false;
let limits = null;
let signed = false;

function say(id, text, bad = false) {
  const place = at(id);
  place.textContent = text;
  place.classList.toggle("bad", bad);
}

function failed(id, error) {
  say(id, error.message, true);
  if (error.code === 401) {
    at("signin").hidden = false;
    at("token").focus();
  }
}

function take(name, file) {
  if (!file) return;
  if (limits && file.size > Number(limits.max_image_bytes)) {
    say(name === "ask" ? "ask-status" : "compare-status", `The picture has ${file.size} bytes, the limit is ${limits.max_image_bytes}.`, true);
    return;
  }
  chosen[name] = file;
  const preview = at(`${name}-preview`);
  URL.revokeObjectURL(preview.src);
  preview.onload = () => { preview.hidden = false; };
  // The server says what is wrong with it; a broken frame says nothing.
  preview.onerror = () => { preview.hidden = true; };
  preview.src = URL.createObjectURL(file);
}

for (const place of document.querySelectorAll("[data-drop]")) {
  const name = place.dataset.drop;
  at(`${name}-file`).addEventListener("change", (event) => take(name, event.target.files[0]));
  place.addEventListener("dragover", (event) => { event.preventDefault(); place.classList.add("over"); });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    take(name, [...event.dataTransfer.files].find((file) => file.type.startsWith("image/")));
  });
}
// A file that misses its place must not replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (!file) return;
  event.preventDefault();
  if (!at("compare").hidden) take(chosen.left ? "right" : "left", file);
  else take("ask", file);
});

async function busy(form, status, work) {
  const button = form.querySelector("button[type=submit]");
  button.disabled = true;
  say(status, "Asking …");
  try {
    await work();
  } catch (error) {
    failed(status, error);
  } finally {
    button.disabled = false;
  }
}

at("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chosen.ask) { say("ask-status", "Choose a picture first.", true); at("ask-file").focus(); return; }
  const prompt = at("ask-prompt").value.trim();
  const top = Number(at("ask-top").value) || 10;
  const both = at("ask-both").checked && prompt;
  const picture = chosen.ask;
  busy(event.target, "ask-status", async () => {
    const found = await Promise.all([api.attribute(picture, prompt, top, signed), ...(both ? [api.attribute(picture, "", top, signed)] : [])]);
    const titles = both ? ["With its prompt", "Without it"] : [""];
    at("ask-answer").classList.toggle("two", Boolean(both));
    const asked = [[picture, prompt, top], [picture, "", top]];
    at("ask-answer").replaceChildren(...found.map((answer, place) => answerOf(answer, titles[place], pictures, asked[place])));
    say("ask-status", found[0].out_of_distribution ? "Answered: resembles nothing known." : `Answered: ${found[0].items.length} sources.`);
  });
});

at("compare-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!chosen.left || !chosen.right) { say("compare-status", "Choose two pictures first.", true); return; }
  busy(event.target, "compare-status", async () => {
    const asked = ["left", "right"].map((side) => [chosen[side], at(`${side}-prompt`).value.trim(), 10]);
    const found = await Promise.all(asked.map((one) => api.attribute(...one, signed)));
    at("compare-answer").classList.add("two");
    at("compare-answer").replaceChildren(...["First picture", "Second picture"].map((title, place) => answerOf(found[place], title, pictures, asked[place])));
    const of = (answer) => new Map(answer.creators.map((creator) => [creator.creator, creator.share]));
    const [left, right] = found.map(of);
    const shared = [...left].filter(([name, share]) => share > 0 && right.get(name) > 0);
    at("compare-shared").replaceChildren(make("h3", { textContent: "Creators of both" }),
      shared.length ? make("ul", {}, ...shared.map(([name, share]) => make("li", { textContent: `${name}: ${percent(share)} and ${percent(right.get(name))}` })))
        : make("p", { textContent: "None." }));
    say("compare-status", "Answered.");
  });
});

making.generating({ busy, say, pictures: () => pictures, signed: () => signed });

const looking = { kind: "items", search: "", creator: "", token: "" };

async function look(more) {
  const { kind, search, creator, token } = looking;
  try {
    const page = kind === "items" ? await api.items({ search, creator, page_token: more ? token : "" })
      : await api.creators({ search, page_token: more ? token : "" });
    looking.token = page.next_page_token;
    const rows = kind === "items" ? page.items.map((item) => card(item, pictures)) : page.creators.map(creatorRow);
    const list = more ? at("browse-found").firstElementChild : make("ul", { className: kind === "items" ? "cards" : "legend" });
    list.append(...rows);
    if (!more) at("browse-found").replaceChildren(list);
    at("browse-more").hidden = !looking.token;
    say("browse-status", rows.length ? `${list.children.length} ${kind}${creator ? ` by ${creator}` : ""}${looking.token ? ", and more" : ""}.` : "Nothing found.");
  } catch (error) {
    failed("browse-status", error);
  }
}

function creatorRow(creator) {
  const button = make("button", { type: "button", className: "plain", textContent: creator.name || "(unknown)" });
  button.addEventListener("click", () => {
    Object.assign(looking, { kind: "items", search: "", creator: creator.name, token: "" });
    at("browse-kind").value = "items";
    look(false);
  });
  return make("li", {}, button, make("span", { className: "share", textContent: `${creator.item_count} ${creator.item_count === 1 ? "item" : "items"}` }));
}

at("browse-form").addEventListener("submit", (event) => {
  event.preventDefault();
  Object.assign(looking, { kind: at("browse-kind").value, search: at("browse-search").value.trim(), creator: "", token: "" });
  look(false);
});
at("browse-more").addEventListener("click", () => look(true));

at("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  api.setToken(at("token").value);
  at("token").value = "";
  at("signin").hidden = true;
  begin();
});

let browsed = false;
tabs(document.querySelector("[role=tablist]"), (view) => {
  if (view === "browse" && !browsed) { browsed = true; look(false); }
});

async function begin() {
  try {
    const told = await api.bundle();
    pictures = Number(told.thumbnail_count) > 0;
    limits = told.limits;
    signed = await api.signs();
    at("ask-top").max = String(limits.max_top_k);
    at("bundle").textContent = `${Number(told.item_count).toLocaleString("en")} items by ${told.creator_count.toLocaleString("en")} creators · generator: ${told.subject_model}`;
    at("method").textContent = `How shares were set: ${told.calibration.method}.`;
    const views = await api.views();
    if (views.generator) await making.begin();
    if (views.report) {
      at("report-frame").srcdoc = await api.report();
      at("tab-report").hidden = false;
    }
  } catch (error) {
    failed("ask-status", error);
  }
}

begin();

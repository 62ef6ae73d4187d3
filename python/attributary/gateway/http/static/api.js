// Asking this server. Errors are google.rpc.Status; a token is kept for as long as the tab is open.

const KEY = "attributary-token";

export class Refused extends Error {
  constructor(status, code) {
    super(status?.message || `the server answered with ${code}`);
    this.code = code;
  }
}

export const setToken = (token) => sessionStorage.setItem(KEY, token);

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(KEY);
  const headers = { ...(options.headers || {}), ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let reply;
  try {
    reply = await fetch(path, { ...options, headers });
  } catch {
    throw new Refused({ message: "the server cannot be reached" }, 0);
  }
  if (!reply.ok) throw new Refused(await reply.json().catch(() => null), reply.status);
  return reply;
}

const json = async (path, options) => (await ask(path, options)).json();

function question(picture, prompt, topK) {
  const form = new FormData();
  form.append("image", picture, "picture");
  if (prompt) form.append("prompt", prompt);
  form.append("top_k", String(topK));
  form.append("top_creators", "100");
  return form;
}

export function attribute(picture, prompt, topK, receipt) {
  const form = question(picture, prompt, topK);
  if (receipt) form.append("receipt", "true");
  return json("/v1/attribute", { method: "POST", body: form }).then((reply) => reply.attribution);
}

export async function onePage(picture, prompt, topK) {
  const reply = await ask("/v1/attribute", { method: "POST", body: question(picture, prompt, topK), headers: { Accept: "application/pdf" } });
  return reply.blob();
}

const query = (fields) => new URLSearchParams(Object.entries(fields).filter(([, value]) => value)).toString();
export const items = (fields) => json(`/v1/items?${query({ page_size: "24", ...fields })}`);
export const creators = (fields) => json(`/v1/creators?${query({ page_size: "100", ...fields })}`);
export const signs = async () => (await json("/v1/receipt-keys")).keys.some((key) => key.signs);
export const bundle = () => json("/v1/bundle");
export const report = async () => (await ask("/report")).text();

export const views = () => json("/page.json");
export const generator = () => json("/generator");

// A picture as a Blob; `told` hears the steps done and their number.
export async function generate(wish, told) {
  const job = await json("/generator/pictures", { method: "POST", body: JSON.stringify(wish), headers: { "Content-Type": "application/json" } });
  for (;;) {
    const reply = await ask(`/generator/pictures/${encodeURIComponent(job.id)}`);
    if (reply.headers.get("Content-Type") === "image/png") return reply.blob();
    const { done, steps, failure } = await reply.json();
    if (failure) throw new Refused({ message: failure }, 500);
    told(done, steps);
    await new Promise((after) => setTimeout(after, 100));
  }
}

export async function thumbnail(id) {
  // Not as the address of an <img>: that could carry no token.
  return URL.createObjectURL(await (await ask(`/v1/items/${encodeURIComponent(id)}/thumbnail`)).blob());
}

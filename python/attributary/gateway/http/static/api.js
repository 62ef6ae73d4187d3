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

export function attribute(picture, prompt, topK, receipt) {
  const form = new FormData();
  form.append("image", picture, "picture");
  if (prompt) form.append("prompt", prompt);
  form.append("top_k", String(topK));
  form.append("top_creators", "100");
  if (receipt) form.append("receipt", "true");
  return json("/v1/attribute", { method: "POST", body: form }).then((reply) => reply.attribution);
}

const query = (fields) => new URLSearchParams(Object.entries(fields).filter(([, value]) => value)).toString();
export const items = (fields) => json(`/v1/items?${query({ page_size: "24", ...fields })}`);
export const creators = (fields) => json(`/v1/creators?${query({ page_size: "100", ...fields })}`);
export const signs = async () => (await json("/v1/receipt-keys")).keys.some((key) => key.signs);
export const bundle = () => json("/v1/bundle");
export const report = async () => (await ask("/report")).text();

export async function thumbnail(id) {
  // Not as the address of an <img>: that could carry no token.
  return URL.createObjectURL(await (await ask(`/v1/items/${encodeURIComponent(id)}/thumbnail`)).blob());
}

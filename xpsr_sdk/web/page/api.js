// Talks to the server. Every function throws an Error whose message can be shown.

async function asked(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw new Unreachable("The server cannot be reached.");
  }
  if (answer.ok) return answer.json();
  let reason = `The server answered ${answer.status}.`;
  try {
    reason = (await answer.json()).error ?? reason;
  } catch { /* it is no JSON, as a proxy may send */ }
  const error = new Error(reason);
  error.status = answer.status;
  throw error;
}

export class Unreachable extends Error {}

const json = (method, value) => ({
  method,
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(value),
});

export const options = () => asked("/api/options");
export const photos = () => asked("/api/photos");
export const jobs = () => asked("/api/jobs");
export const upload = (file, name) =>
  asked(`/api/photos?name=${encodeURIComponent(name)}`, { method: "POST", body: file });
export const restore = (photo, settings, title = "") => asked("/api/jobs", json("POST", { photo, settings, title }));
export const removeJob = (id) => asked(`/api/jobs/${id}`, { method: "DELETE" });
export const removePhoto = (id) => asked(`/api/photos/${id}`, { method: "DELETE" });

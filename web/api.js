// The HTTP API of the server that this page came from.

/** What the server refused, or that it did not answer; `message` is for people. */
export class Problem extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** A request; with a body it is posted. Errors are RFC 9457 problems. */
export async function api(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...options });
  } catch {
    throw new Problem("unreachable", "The server cannot be reached.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok)
    throw new Problem(answer.code ?? "http", answer.detail ?? `The server answered ${response.status}.`);
  return answer;
}

// mcp-remote: a bridge from stdio to the gateway, for clients that speak only stdio. It registers itself, has a person sign in with a
// browser, and keeps the tokens; or it is given a token. A small client speaks to it here.

import { join } from "node:path";
import { createInterface } from "node:readline";

import { allowed, expectFile, expectRefusal, expectTools, named, refused } from "./expected.mjs";
import { brief, expect, patience } from "./run.mjs";

export async function checkRemote(client, gateway, report) {
  const runs = [];
  for (const [region, base] of Object.entries(gateway.regions)) {
    for (const [path, suffix] of Object.entries(gateway.paths)) runs.push({ at: `${region} ${path}`, path, url: base + suffix });
  }
  // Once more at the first: with what it kept, so that no browser may open; and with a token in a header, in a home that knows nothing.
  runs.push({ ...runs[0], at: `${runs[0].at}, signed in before`, extra: { BROWSER: "/bin/false" } });
  runs.push({ ...runs[0], at: `${runs[0].at}, with a token`, token: gateway.senior, extra: { HOME: join(client.home, "token"), BROWSER: "/bin/false" } });
  for (const { at, path, url, token, extra } of runs) {
    const bridge = new Bridge(client, url, token, extra);
    try {
      await report.check(`${at} initialize`, async () => {
        const result = await bridge.ask("initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "sallyport-interop", version: "1" } });
        expect(result.serverInfo?.name === "sallyport" && result.protocolVersion === "2025-11-25", "sallyport at 2025-11-25 should have answered", result);
        bridge.send({ method: "notifications/initialized" });
      });
      await report.check(`${at} tools/list`, async () => expectTools(path, ((await bridge.ask("tools/list", {})).tools ?? []).map((tool) => tool.name)));
      await report.check(`${at} allowed tools/call`, async () => expectFile(await bridge.call(named(path, allowed.tool), allowed.args)));
      await report.check(`${at} refused tools/call`, async () => expectRefusal(await bridge.call(named(path, refused.tool), refused.args)));
    } finally {
      await bridge.end();
    }
  }
}

// Bridge is a running mcp-remote: one JSON-RPC message per line.
class Bridge {
  #child;
  #waiting = new Map();
  #last = 0;
  #stderr = "";
  #ended = "";

  constructor(client, url, token, extra = {}) {
    // By the environment the token stands in no list of processes.
    const header = token ? ["--header", "Authorization:${SALLYPORT_AUTHORIZATION}"] : [];
    this.#child = client.start([url, "--transport", "http-only", ...header], { ...extra, ...(token ? { SALLYPORT_AUTHORIZATION: `Bearer ${token}` } : {}) });
    this.#child.stderr.on("data", (data) => (this.#stderr = (this.#stderr + data).slice(-4000)));
    this.#child.stdin.on("error", () => {}); // it ended: said by close
    this.#child.on("error", (err) => this.#fail(`it could not be started: ${err.message}`));
    this.#child.on("close", () => this.#fail(`it ended; it said ${brief(this.#stderr)}`));
    createInterface({ input: this.#child.stdout }).on("line", (line) => this.#hear(line));
  }

  send(message) {
    this.#child.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  }

  ask(method, params) {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(new Error(this.#ended));
      const timer = setTimeout(() => this.#waiting.get(id)?.({ failed: `no answer within ${patience / 1000}s; it said ${brief(this.#stderr)}` }), patience);
      this.#waiting.set(id, (answer) => {
        clearTimeout(timer);
        this.#waiting.delete(id);
        if (answer.result) resolve(answer.result);
        else reject(new Error(answer.failed ?? `it answered ${brief(JSON.stringify(answer))}`));
      });
      this.send({ id, method, params });
    });
  }

  call(name, args) {
    return this.ask("tools/call", { name, arguments: args });
  }

  // end closes its input, and ends it if that does not.
  async end() {
    const closed = new Promise((resolve) => (this.#ended ? resolve() : this.#child.once("close", resolve)));
    this.#child.stdin.end();
    const timer = setTimeout(() => this.#child.kill("SIGTERM"), 1000);
    const last = setTimeout(() => this.#child.kill("SIGKILL"), 5000);
    await closed;
    clearTimeout(timer);
    clearTimeout(last);
  }

  #hear(line) {
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      return this.#fail(`it printed something that is no message: ${brief(line)}`);
    }
    this.#waiting.get(message.id)?.(message);
  }

  #fail(reason) {
    this.#ended ||= reason;
    for (const answer of [...this.#waiting.values()]) answer({ failed: reason });
  }
}

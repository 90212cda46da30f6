// MCP servers that speak over standard input and output, run by the gateway's runner: their tools are pinned from what the runner writes down, and
// are called through a proxy of the checks' own, in both eras.

import { execFile, spawn } from "node:child_process";
import { realpathSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";

import { brief, expect } from "./run.mjs";

const run = promisify(execFile);
const most = 180_000; // milliseconds that a server may take to start and answer

// How each is started, and what is asked of it. Salesforce's has nobody signed in: what it answers says so, and is its own answer.
const servers = {
  "server-everything": { args: ["stdio"], check: checkEverything },
  salesforce: { args: ["--orgs", "DEFAULT_TARGET_ORG", "--toolsets", "data", "--no-telemetry"], check: checkSalesforce },
};

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function until(what, holds) {
  for (const begun = Date.now(); Date.now() - begun < most; await new Promise((resolve) => setTimeout(resolve, 100))) {
    if (await holds().catch(() => false)) return;
  }
  throw new Error(`it did not come about that ${what}`);
}

// Agent speaks MCP to one endpoint, in one era.
class Agent {
  #next = 1;

  constructor(url, token, stateless) {
    Object.assign(this, { url, token, stateless, session: "" });
  }

  async open() {
    if (this.stateless) return this;
    await this.ask("initialize", { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "interop", version: "1" } });
    await this.#post({ jsonrpc: "2.0", method: "notifications/initialized" }, {});
    return this;
  }

  #post(message, headers) {
    return fetch(this.url, {
      method: "POST",
      signal: AbortSignal.timeout(most),
      body: JSON.stringify(message),
      headers: {
        authorization: `Bearer ${this.token}`, "content-type": "application/json", accept: "application/json, text/event-stream",
        "mcp-protocol-version": this.stateless ? "2026-07-28" : "2025-11-25", ...(this.session ? { "mcp-session-id": this.session } : {}), ...headers,
      },
    });
  }

  // ask returns the message that answers a request.
  async ask(method, params, name = "") {
    const headers = this.stateless ? { "mcp-method": method, ...(name ? { "mcp-name": name } : {}) } : {};
    if (this.stateless) {
      params = { ...params, _meta: {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientInfo": { name: "interop", version: "1" },
        "io.modelcontextprotocol/clientCapabilities": { extensions: { "io.modelcontextprotocol/tasks": {} } },
      } };
    }
    const response = await this.#post({ jsonrpc: "2.0", id: this.#next++, method, params }, headers);
    this.session ||= response.headers.get("mcp-session-id") ?? "";
    const body = await response.text();
    const last = response.headers.get("content-type")?.startsWith("text/event-stream") ? body.split("\n").filter((line) => line.startsWith("data: {")).at(-1)?.slice(6) : body;
    try {
      return JSON.parse(last);
    } catch {
      throw new Error(`${method} should have been answered; saw ${response.status} ${brief(body)}`);
    }
  }

  async tools() {
    const { result } = await this.ask("tools/list", {});
    return result.tools.map((tool) => tool.name);
  }

  call(name, args, more = {}) {
    return this.ask("tools/call", { name, arguments: args, ...more }, name);
  }
}

async function checkEverything(agent, report, at) {
  await report.check(`${at}: tools/list and tools/call`, async () => {
    const names = await agent.tools();
    expect(names.includes("echo") && names.includes("get-sum"), "its tools should be listed", names);
    const { result } = await agent.call("get-sum", { a: 20, b: 22 });
    expect(result?.content?.[0]?.text?.includes("42"), "the sum should have come", result);
  });
  await report.check(`${at}: prompts and resources`, async () => {
    const prompts = await agent.ask("prompts/list", {});
    expect(prompts.result?.prompts?.some((prompt) => prompt.name === "simple-prompt"), "its prompts should be listed", prompts);
    const prompt = await agent.ask("prompts/get", { name: "simple-prompt" }, "simple-prompt");
    expect(prompt.result?.messages?.length > 0, "the prompt should have come", prompt);
    const { result } = await agent.ask("resources/list", {});
    const uri = result?.resources?.[0]?.uri;
    const read = await agent.ask("resources/read", { uri }, uri);
    expect(read.result?.contents?.length > 0, "the resource should have come", read);
  });
  await report.check(`${at}: a tool that answers by a task`, async () => {
    const tool = "simulate-research-query";
    const made = await agent.call(tool, { topic: "gateways" }, agent.stateless ? {} : { task: { ttl: 60_000 } });
    const id = agent.stateless ? made.result?.taskId : made.result?.task?.taskId;
    expect(id?.length > 60 && (!agent.stateless || made.result.resultType === "task"), "a sealed task should have been made", made);
    let task;
    await until("the task ends", async () => {
      task = await agent.ask("tasks/get", { taskId: id }, id);
      return task.result?.status === "completed" || task.error;
    });
    const result = agent.stateless ? task.result?.result : (await agent.ask("tasks/result", { taskId: id })).result;
    expect(JSON.stringify(result ?? task).includes("gateways") && task.result?.taskId === id, "its result should have come", task);
  });
}

async function checkSalesforce(agent, report, at) {
  await report.check(`${at}: tools/list and tools/call`, async () => {
    const names = await agent.tools();
    expect(names.includes("run_soql_query"), "its tools should be listed", names);
    const answer = await agent.call("get_username", { defaultTargetOrg: true, defaultDevHub: false, directory: "/tmp" });
    const text = answer.result?.content?.[0]?.text ?? "";
    expect(text && !text.startsWith("Sallyport"), "the server's own answer should have come", answer);
  });
}

export async function checkUpstreams(programs, gateway, report) {
  const sallyport = (...args) => run(gateway.cli, args, { env: { PATH: process.env.PATH, SALLYPORT_SERVER: gateway.admin.url, SALLYPORT_TOKEN: gateway.admin.token } });
  const ready = [];
  for (const one of programs) {
    if (one.reason) report.client(one.name, one.version).skipped("all of it", one.reason);
    else ready.push(one);
  }
  if (ready.length === 0) return;
  const config = join(gateway.work, "runner.yaml");
  writeFileSync(config, JSON.stringify({ servers: ready.map((one) => {
    const home = join(gateway.work, `home-${one.name}`);
    mkdirSync(home, { recursive: true });
    return { name: one.name, command: [process.execPath, realpathSync(one.program), ...servers[one.name].args], env: { HOME: home }, limits: { start: "3m" } };
  }) }));
  const children = [];
  const start = (args, token) => {
    const child = spawn(gateway.proxy, args, { stdio: ["ignore", "ignore", "pipe"], env: { PATH: process.env.PATH, HOME: gateway.work, SALLYPORT_RUNNER_TOKEN: "interop-runner-token", ...token } });
    child.stderr.on("data", (data) => { child.said = `${child.said ?? ""}${data}`.slice(-4000); });
    process.once("exit", () => child.kill("SIGKILL"));
    children.push(child);
    return child;
  };
  try {
    const [runnerPort, proxyPort] = [await freePort(), await freePort()];
    start(["runner", "--config", config, "--listen", `127.0.0.1:${runnerPort}`]);
    const token = JSON.parse((await sallyport("proxies", "invite", "interop", "--region", "us-east", "-o", "json")).stdout).token;
    start(["serve", "--name", "interop", "--region", "us-east", "--control-plane", gateway.fleet, "--listen", `127.0.0.1:${proxyPort}`,
      "--data-dir", join(gateway.work, "interop-proxy"), "--resource", gateway.regions["us-east"], "--runner", `http://127.0.0.1:${runnerPort}`], { SALLYPORT_INVITATION: token });
    await until("the proxy is ready", async () => (await fetch(`http://127.0.0.1:${proxyPort}/readyz`)).ok);
    for (const one of ready) {
      const of = report.client(one.name, one.version);
      let pinned = false;
      await of.check("its tools are written down by the runner and pinned", async () => {
        const { stdout } = await run(gateway.proxy, ["runner", "list", one.name, "--config", config], { timeout: most, maxBuffer: 16 << 20, env: { PATH: process.env.PATH, HOME: gateway.work } });
        const [offered, policy] = [join(gateway.work, `${one.name}.json`), join(gateway.work, `${one.name}.yaml`)];
        writeFileSync(offered, stdout);
        writeFileSync(policy, [
          `kind: Connector\nid: ${one.name}\nurl: stdio:${one.name}\ntimeout: 3m\n`,
          `kind: Grant\ngroup: okta/Senior Engineers\nconnector: ${one.name}\nrules:\n  - allow: ["*", "prompt:*", "resource:*"]\n`,
        ].join("---\n"));
        await sallyport("apply", "-f", policy);
        const { stdout: approved } = await sallyport("catalogue", "approve", one.name, "--file", offered, "-o", "json");
        await sallyport("receipt", "--version", String(JSON.parse(approved).version), "--wait");
        pinned = true;
      });
      if (!pinned) continue;
      for (const stateless of [false, true]) {
        const agent = new Agent(`http://127.0.0.1:${proxyPort}/mcp/${one.name}`, gateway.senior, stateless);
        await servers[one.name].check(await agent.open(), of, stateless ? "stateless" : "session");
      }
    }
  } finally {
    for (const child of children.reverse()) {
      child.kill("SIGTERM");
      await Promise.race([new Promise((resolve) => child.once("exit", resolve)), new Promise((resolve) => setTimeout(resolve, 10_000))]);
      child.kill("SIGKILL");
    }
  }
}

// The official conformance suite, at its fixture server directly and behind the proxy: what passes there must pass here.
// A scenario passes if nothing in it fails; what it only notes, such as an answer in JSON where a stream could be, is no part of it.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { join } from "node:path";
import { promisify } from "node:util";

import { expect } from "./run.mjs";

const run = promisify(execFile);
const suiteMost = 300_000; // milliseconds

// Which suite, what it is told to run, and in which mode its fixture serves. The fixture has sessions in one mode alone.
const suites = [
  { name: "0.1.16", client: "conformance", args: [], stateless: false },
  { name: "2025-11-25", client: "conformance-next", args: ["--requirements", "2025-11-25"], stateless: false },
  { name: "2026-07-28", client: "conformance-next", args: ["--requirements", "2026-07-28"], stateless: true },
];

// Scenarios that cannot pass behind a gateway, and why. Each is printed with its reason.
const excused = {
  "dns-rebinding-protection": "it asks without the person's token from a foreign origin, and is answered by the header-adding proxy in front",
};

// bearing adds the person's token to what the suite sends, which has no flag for it. It listens on loopback only.
async function bearing(target, token) {
  const to = new URL(target);
  const server = createServer((ask, answer) => {
    const headers = { ...ask.headers, authorization: `Bearer ${token}` };
    // The gateway holds Origin and Host to its own address; what the suite says of this one becomes that.
    const own = `127.0.0.1:${server.address().port}`;
    if (headers.host === own || headers.host === own.replace("127.0.0.1", "localhost")) headers.host = to.host;
    if (headers.origin?.endsWith(own) || headers.origin?.endsWith(own.replace("127.0.0.1", "localhost"))) headers.origin = to.origin;
    const on = request({ host: to.hostname, port: to.port, path: to.pathname, method: ask.method, headers }, (got) => {
      answer.writeHead(got.statusCode, got.headers);
      got.pipe(answer);
    });
    on.on("error", () => answer.destroy());
    answer.on("close", () => on.destroy());
    ask.pipe(on);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { url: `http://127.0.0.1:${server.address().port}${to.pathname}`, close: () => { server.closeAllConnections(); server.close(); } };
}

// fixture starts the suite's server and waits until it answers.
async function fixture(program, stateless) {
  for (let attempt = 0; attempt < 5; attempt++) {
    const port = 20_000 + Math.floor(Math.random() * 20_000);
    const child = spawn(program, ["-http", `127.0.0.1:${port}`, `-stateless=${stateless}`], { stdio: "ignore" });
    process.once("exit", () => child.kill("SIGKILL"));
    for (let wait = 0; wait < 100 && child.exitCode === null; wait++) {
      const up = await fetch(`http://127.0.0.1:${port}/mcp`, { signal: AbortSignal.timeout(1000) }).then(() => true, () => false);
      if (up) return { url: `http://127.0.0.1:${port}/mcp`, end: () => child.kill("SIGKILL") };
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    child.kill("SIGKILL");
  }
  throw new Error("the suite's fixture did not come up");
}

// results reads the suite's summary: what passed and failed of each scenario.
async function results(client, url, args, home) {
  let said;
  try {
    said = await run(client.program, ["server", "--url", url, ...args], { cwd: home, env: { ...client.env, HOME: home }, timeout: suiteMost, maxBuffer: 64 << 20 });
  } catch (err) {
    if (!err.stdout) throw err;
    said = err; // it ends with 1 if a scenario failed
  }
  const summary = said.stdout.slice(said.stdout.indexOf("=== SUMMARY ==="));
  const all = new Map();
  for (const [, name, passed, failed] of summary.matchAll(/^[✓✗~?] ([\w.-]+): (\d+) passed, (\d+) failed/gmu)) {
    all.set(name, { passed: Number(passed), failed: Number(failed) });
  }
  expect(all.size > 0, "the suite should have run scenarios", said.stdout.slice(-400));
  return all;
}

const told = (r) => (r ? `${r.passed} passed, ${r.failed} failed` : "not run");

export async function checkConformance(clients, gateway, of) {
  const sallyport = (...args) => run(gateway.cli, args, { env: { PATH: process.env.PATH, SALLYPORT_SERVER: gateway.admin.url, SALLYPORT_TOKEN: gateway.admin.token } });
  for (const suite of suites) {
    const client = clients[suite.client];
    const report = of(suite);
    if (!client) {
      report.skipped("all of it", "the suite could not be installed");
      continue;
    }
    const connector = `conformance-${suite.name.replaceAll(".", "-")}`;
    // A fixture remembers what was done to it, so that each column has one of its own.
    const direct = await fixture(gateway.fixture, suite.stateless);
    const behind = await fixture(gateway.fixture, suite.stateless);
    let door;
    try {
      const file = join(gateway.work, `${connector}.yaml`);
      writeFileSync(file, [
        `kind: Connector\nid: ${connector}\nurl: ${behind.url}\nallowedRanges: [127.0.0.0/8]\nconsent: [sampling, elicitation, roots]\n`,
        `kind: Grant\ngroup: okta/Senior Engineers\nconnector: ${connector}\nrules:\n  - allow: ["*", "prompt:*", "resource:*"]\n`,
      ].join("---\n"));
      await sallyport("apply", "-f", file);
      const { stdout } = await sallyport("connectors", "discover", connector, "-o", "json");
      const { stdout: approved } = await sallyport("catalogue", "approve", connector, "--digest", JSON.parse(stdout).digest, "-o", "json");
      await sallyport("receipt", "--version", String(JSON.parse(approved).version), "--wait");
      door = await bearing(`${gateway.regions["us-east"]}/${connector}`, gateway.senior);
      const left = await results(client, direct.url, suite.args, client.home);
      const right = await results(client, door.url, suite.args, client.home);
      for (const [scenario, asked] of left) {
        const got = right.get(scenario);
        const columns = `${scenario}: directly ${told(asked)}; behind the proxy ${told(got)}`;
        if (asked.failed > 0 || asked.passed === 0) report.skipped(columns, "the fixture does not pass it when it is asked directly");
        else if (excused[scenario] && got?.failed) report.skipped(columns, excused[scenario]);
        else await report.check(columns, async () => expect(got && got.failed === 0, "it should have passed behind the proxy too", told(got)));
      }
    } finally {
      door?.close();
      direct.end();
      behind.end();
    }
  }
}

// Runs the checks of each client program that scripts/interop installed, and prints one line per check.
//
// A check runs a client as a person would, and looks at what the client printed: names of tools, results, states. Exit
// codes alone prove nothing. It never reads the gateway's own state: what counts is what the client saw.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

import { checkAuthorization } from "./authorization.mjs";
import { checkClaude } from "./claude.mjs";
import { checkConformance } from "./conformance.mjs";
import { checkGemini } from "./gemini.mjs";
import { checkInspector } from "./inspector.mjs";
import { checkRemote } from "./remote.mjs";
import { Report } from "./report.mjs";
import { Client } from "./run.mjs";
import { checkUpstreams } from "./upstreams.mjs";

const { values: flags } = parseArgs({ options: { work: { type: "string" }, json: { type: "boolean", default: false } } });

const env = Object.fromEntries(
  readFileSync(join(flags.work, "env"), "utf8").split("\n").filter(Boolean).map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
);
const token = (person) => readFileSync(join(flags.work, `token-${person}`), "utf8").trim();
const gateway = {
  regions: { "us-east": env.SALLYPORT_MCP_URL_US_EAST, "eu-west": env.SALLYPORT_MCP_URL_EU_WEST },
  paths: { "/mcp": "", "/mcp/github": "/github" },
  senior: token("maya.chen"),
  junior: token("tom.berg"),
  // For the conformance suite, which brings an upstream of its own.
  admin: { url: env.SALLYPORT_ADMIN_URL, token: env.SALLYPORT_ADMIN_TOKEN },
  fleet: env.SALLYPORT_FLEET_URL,
  cli: join(flags.work, "data", "bin", "sallyport"),
  proxy: join(flags.work, "data", "bin", "sallyport-proxy"),
  fixture: join(flags.work, "fixture"),
  // What opens a URL as a person of the quickstart, and where that person's agents are sent to sign in.
  browser: join(flags.work, "browser"),
  signIn: env.SALLYPORT_SIGNIN_URL,
  work: flags.work,
};
const checks = { inspector: checkInspector, claude: checkClaude, gemini: checkGemini, "mcp-remote": checkRemote };

const clientOf = (name, program) => new Client(program, join(flags.work, `home-${name}`), gateway.browser);
const suites = new Map();
const report = new Report(flags.json);
for (const line of readFileSync(join(flags.work, "clients"), "utf8").split("\n").filter(Boolean)) {
  const [name, version, program, reason] = line.split("\t");
  const of = report.client(name, version);
  if (name.startsWith("conformance")) {
    suites.set(name, { version, client: reason ? null : clientOf(name, program) });
    continue;
  }
  if (reason) {
    of.skipped("all of it", reason);
    continue;
  }
  await checks[name](clientOf(name, program), gateway, of);
}
if (suites.size > 0) {
  const clients = Object.fromEntries([...suites].map(([name, { client }]) => [name, client]));
  const of = (suite) => report.client(`conformance ${suite.name}`, suites.get(suite.client)?.version ?? "-");
  await checkAuthorization(clients, gateway, of);
  await checkConformance(clients, gateway, of);
}
const programs = readFileSync(join(flags.work, "programs"), "utf8").split("\n").filter(Boolean).map((line) => {
  const [name, version, program, reason] = line.split("\t");
  return { name, version, program, reason };
});
if (programs.length > 0) await checkUpstreams(programs, gateway, report);
report.end();
process.exitCode = report.failed > 0 || report.passed + report.skips === 0 ? 1 : 0;

// The official conformance suite's scenarios for authorization servers, at Sallyport's. Its scenarios called auth/… test clients, not
// servers, and are not for us to pass.

import { execFile, spawn } from "node:child_process";
import { createServer } from "node:net";
import { promisify } from "node:util";

import { brief, expect, patience } from "./run.mjs";

const run = promisify(execFile);

// The revisions that the suite has them for. Only its newer version has any.
const revisions = ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];

export async function checkAuthorization(clients, gateway, of) {
  const client = clients["conformance-next"];
  const report = of({ name: "authorization", client: "conformance-next" });
  if (!client) {
    report.skipped("all of it", "the suite could not be installed");
    return;
  }
  const sallyport = (...args) => run(gateway.cli, args, { env: { PATH: process.env.PATH, SALLYPORT_SERVER: gateway.admin.url, SALLYPORT_TOKEN: gateway.admin.token } });
  for (const revision of revisions) {
    const port = await freePort();
    // The suite does not register itself: it is given the id of a client that an admin described.
    const id = `conformance-${revision}`;
    let said = "";
    await report.check(`${revision}: the suite runs`, async () => {
      await sallyport("clients", "approve", id, "--name", "Conformance suite", "--redirect-uri", `http://127.0.0.1:${port}/callback`);
      said = await scenarios(client, gateway, ["authorization", "--url", gateway.signIn, "--client-id", id, "--resource", gateway.regions["us-east"], "--port", String(port), "--spec-version", revision]);
    });
    const found = [...said.slice(said.indexOf("=== SUMMARY ===")).matchAll(/^[✓✗~?] ([\w.-]+): (\d+) passed, (\d+) failed/gmu)];
    await report.check(`${revision}: there are scenarios`, async () => expect(found.length > 0, "the suite should have run scenarios", said.slice(-400)));
    for (const [, name, passed, failed] of found) {
      await report.check(`${revision} ${name}: ${passed} passed, ${failed} failed`, async () => expect(failed === "0" && passed !== "0", "all of it should have passed", said.slice(-400)));
    }
  }
}

// scenarios runs the suite, and has a person open the URL that it shows.
function scenarios(client, gateway, args) {
  return new Promise((resolve, reject) => {
    const child = client.start(args);
    let said = "";
    let opened = false;
    const hear = (data) => {
      said += data;
      const at = said.match(/^(http\S+\/oauth\/authorize\?\S+)$/m);
      if (!at || opened || !said.includes("Callback server started")) return;
      opened = true;
      spawn(gateway.browser, [at[1]], { env: client.env, stdio: "ignore" });
    };
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    const timer = setTimeout(() => child.kill("SIGKILL"), 2 * patience);
    child.on("error", reject);
    child.on("close", () => {
      clearTimeout(timer);
      if (said.includes("=== SUMMARY ===")) resolve(said);
      else reject(new Error(`it ended without a summary; it said ${brief(said.slice(-400))}`));
    });
  });
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

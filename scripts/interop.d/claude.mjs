// Claude Code: adds the gateway by its own command, signs in as it does for anybody (it names itself by a metadata document), and says
// whether it is connected; and the same with a token in a header. No model.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";

import { bearer, Client, expect } from "./run.mjs";

const run = promisify(execFile);

// The document by which it names itself. The quickstart knows it beforehand, as in a network that has no way to it.
const document = "https://claude.ai/oauth/claude-code-client-metadata";

export async function checkClaude(client, gateway, report) {
  const list = async () => (await client.run(["mcp", "list"])).stdout;
  const state = (text, name) => text.split("\n").find((line) => line.startsWith(`${name}:`)) ?? "";

  const added = [];
  for (const [region, base] of Object.entries(gateway.regions)) {
    for (const [path, suffix] of Object.entries(gateway.paths)) {
      const name = `sallyport-${region}${suffix.replace("/", "-")}`;
      added.push({ name, url: base + suffix });
      await report.check(`mcp add: ${region} ${path}`, async () => {
        const said = await client.run(["mcp", "add", "--transport", "http", name, base + suffix, "--header", bearer(gateway.senior)]);
        expect(said.stdout.includes(`Added HTTP MCP server ${name}`), "it should have said that it added the server", said.stdout + said.stderr);
      });
    }
  }
  await report.check("mcp list: all of them are connected", async () => {
    const text = await list();
    for (const { name, url } of added) {
      const line = state(text, name);
      expect(line.includes(url) && line.endsWith("Connected"), `${name} should be connected`, text);
    }
  });
  await report.check("mcp get: status and address of one", async () => {
    const { stdout } = await client.run(["mcp", "get", added[0].name]);
    expect(/Status:.*Connected/.test(stdout) && stdout.includes(`URL: ${added[0].url}`), "it should be connected at its address", stdout);
  });
  await checkSignIn(client, gateway, report, list, state);
  await report.check("mcp list: a false token is turned away, in the gateway's words", async () => {
    await client.run(["mcp", "add", "--transport", "http", "false-token", gateway.regions["us-east"], "--header", bearer("not-a-token")]);
    const line = state(await list(), "false-token");
    expect(line.includes("Failed to connect") && line.includes("401") && line.includes("the access token is malformed"), "it should have failed by 401", line);
  });
  await checkManaged(client, gateway, report);
  report.skipped("tools/call", "only a model that is signed in makes calls in Claude Code, and this signs in at no model");
}

// checkSignIn adds the gateway with nothing but its URL.
async function checkSignIn(client, gateway, report, list, state) {
  const sallyport = (...args) => run(gateway.cli, args, { env: { PATH: process.env.PATH, SALLYPORT_SERVER: gateway.admin.url, SALLYPORT_TOKEN: gateway.admin.token } });
  const added = [
    { name: "signed-in", url: gateway.regions["us-east"] },
    { name: "signed-in-github", url: `${gateway.regions["eu-west"]}/github` },
  ];
  for (const { name, url } of added) {
    await report.check(`${name}: mcp add with the URL alone needs a sign-in`, async () => {
      await client.run(["mcp", "add", "--transport", "http", name, url]);
      const line = state(await list(), name);
      expect(line.includes("Needs authentication"), "it should ask for a sign-in", line);
    });
    await report.check(`${name}: mcp login, through the browser and back`, async () => {
      const said = await client.terminal(["mcp", "login", name]);
      expect(said.stdout.includes(`Authenticated with "${name}"`), "it should have said that it is authenticated", said.stdout + said.stderr);
    });
  }
  await report.check("mcp list: connected by its own sign-ins", async () => {
    const text = await list();
    for (const { name, url } of added) {
      const line = state(text, name);
      expect(line.includes(url) && line.endsWith("Connected"), `${name} should be connected`, text);
    }
  });
  await report.check("sessions list: the gateway knows them as Claude Code's", async () => {
    const { stdout } = await sallyport("sessions", "list", "--client", document, "-o", "json");
    const { sessions = [] } = JSON.parse(stdout);
    expect(sessions.length === added.length, "there should be a session for each", stdout);
  });
  await report.check("sessions revoke: it is asked to sign in again", async () => {
    const { stdout } = await sallyport("sessions", "revoke", "--client", document, "-o", "json");
    await sallyport("receipt", "--version", String(JSON.parse(stdout).version), "--wait");
    const text = await list();
    for (const { name } of added) expect(state(text, name).includes("Needs authentication"), `${name} should not be connected any more`, text);
  });
  await report.check("mcp login again", async () => {
    const said = await client.terminal(["mcp", "login", added[0].name]);
    expect(said.stdout.includes("Authenticated"), "it should have said that it is authenticated", said.stdout + said.stderr);
    expect(state(await list(), added[0].name).endsWith("Connected"), "it should be connected", said.stdout);
  });
}

// checkManaged puts the managed configuration where Claude Code reads it, in a view of the file system that nothing else has.
async function checkManaged(client, gateway, report) {
  const apart = new Client("unshare", client.home, client.env.BROWSER);
  const possible = await apart.run(["-m", "true"]).then((r) => r.code === 0, () => false);
  if (!possible) {
    report.skipped("managed configuration", "a file system of its own (unshare -m) is not to be had here");
    return;
  }
  const out = join(client.home, "managed");
  await run(gateway.cli, ["clients", "config", "claude-code", "--url", gateway.regions["us-east"], "--os", "linux", "--out", out], { env: { PATH: process.env.PATH } });
  const script = 'mkdir -p "$0/etc" && mount -t tmpfs none "$0/etc" && cp -a /etc/. "$0/etc" && cp -a "$0/linux/etc/." "$0/etc" && mount --bind "$0/etc" /etc && exec "$@"';
  const managed = (...args) => apart.run(["-m", "sh", "-c", script, out, client.program, ...args]);
  await report.check("managed: mcp list shows the gateway alone", async () => {
    const { stdout, stderr } = await managed("mcp", "list");
    const servers = stdout.split("\n").filter((line) => /^\S+: /.test(line));
    expect(servers.length === 1 && servers[0].startsWith(`sallyport: ${gateway.regions["us-east"]}`), "the gateway should be the only server", stdout + stderr);
  });
  await report.check("managed: mcp add is refused", async () => {
    const said = await managed("mcp", "add", "--transport", "http", "another", "http://127.0.0.1:9/mcp");
    expect(said.code !== 0 && /enterprise MCP configuration/.test(said.stdout + said.stderr), "it should have been refused", said.stdout + said.stderr);
  });
}

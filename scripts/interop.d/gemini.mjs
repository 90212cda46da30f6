// Gemini CLI: adds the gateway by its own command and says whether it is connected. With a token in a header, no model.

import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";

import { bearer, expect } from "./run.mjs";

const run = promisify(execFile);

export async function checkGemini(client, gateway, report) {
  // Gemini CLI connects to nothing from a folder that is not trusted.
  const list = async () => {
    const said = await client.run(["mcp", "list"], { GEMINI_CLI_TRUST_WORKSPACE: "true" });
    return said.stdout + said.stderr;
  };
  const add = (name, url, token) => client.run(["mcp", "add", "--scope", "user", "--transport", "http", "--header", bearer(token), name, url]);
  const state = (text, name) => text.split("\n").find((line) => line.includes(` ${name}: `)) ?? "";

  const added = [];
  for (const [region, base] of Object.entries(gateway.regions)) {
    for (const [path, suffix] of Object.entries(gateway.paths)) {
      const name = `sallyport-${region}${suffix.replace("/", "-")}`;
      added.push({ name, url: base + suffix });
      await report.check(`mcp add: ${region} ${path}`, async () => {
        const said = await add(name, base + suffix, gateway.senior);
        const text = said.stdout + said.stderr;
        expect(text.includes(`MCP server "${name}" added`), "it should have said that it added the server", text);
      });
    }
  }
  await report.check("mcp list: all of them are connected", async () => {
    const text = await list();
    for (const { name, url } of added) {
      const line = state(text, name);
      expect(line.includes(url) && line.endsWith("- Connected"), `${name} should be connected`, text);
    }
  });
  await report.check("mcp list: a false token is turned away", async () => {
    await add("false-token", gateway.regions["us-east"], "not-a-token");
    const line = state(await list(), "false-token");
    expect(line.endsWith("- Disconnected"), "it should not be connected", line);
  });
  // It takes no system settings from below a folder into which others write, such as /tmp.
  const out = await mkdtemp(join(homedir(), ".sallyport-interop-"));
  try {
    await report.check("managed: with the system's settings, every other server is blocked", async () => {
      await run(gateway.cli, ["clients", "config", "gemini-cli", "--url", gateway.regions["us-east"], "--os", "linux", "--out", out], { env: { PATH: process.env.PATH } });
      const said = await client.run(["mcp", "list"], { GEMINI_CLI_TRUST_WORKSPACE: "true", GEMINI_CLI_SYSTEM_SETTINGS_PATH: join(out, "linux/etc/gemini-cli/settings.json") });
      const text = said.stdout + said.stderr;
      const open = text.split("\n").filter((line) => line.includes("(http)") && !line.endsWith("- Blocked"));
      expect(open.length === 1 && open[0].includes(` sallyport: ${gateway.regions["us-east"]} `) && state(text, added[0].name).endsWith("- Blocked"), "the gateway should be the only one that is not blocked", text);
    });
  } finally {
    await rm(out, { recursive: true, force: true });
  }
  report.skipped("tools/call", "only a model that is signed in makes calls in Gemini CLI, and this signs in at no model; it signs in at a gateway only then too");
}

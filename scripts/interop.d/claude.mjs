// Claude Code: adds the gateway by its own command and says whether it is connected. No login, no model.

import { bearer, expect } from "./run.mjs";

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
  await report.check("mcp list: a false token is turned away, in the gateway's words", async () => {
    await client.run(["mcp", "add", "--transport", "http", "false-token", gateway.regions["us-east"], "--header", bearer("not-a-token")]);
    const line = state(await list(), "false-token");
    expect(line.includes("Failed to connect") && line.includes("401") && line.includes("the access token is malformed"), "it should have failed by 401", line);
  });
  report.skipped("tools/call", "only a model that is signed in makes calls in Claude Code, and this signs in nowhere");
}

import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { engineEnvironment } from "./fixture/engine-project.ts";

const checkout = fileURLToPath(new URL("../../", import.meta.url));
const canary = "kEyCaNaRy7f3a9c1e5b";

test(
  "examples/edge-node is previewed by the engine without reaching its node, and the key is a secret there",
  { timeout: 300_000 },
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "edgeseal-example-"));
    try {
      const project = join(folder, "examples/edge-node");
      mkdirSync(project, { recursive: true });
      for (const part of ["components", "policies", "provider", "node_modules", "package.json"])
        symlinkSync(join(checkout, part), join(folder, part));
      // Its waivers have an end, as every waiver has; the test has none.
      for (const file of ["Pulumi.yaml", "index.ts"]) {
        const text = readFileSync(join(checkout, "examples/edge-node", file), "utf8");
        writeFileSync(join(project, file), text.replaceAll("2027-06-30", "2999-12-31"));
      }
      const env = engineEnvironment(folder);
      const pulumi = async (...words: readonly string[]): Promise<string> => {
        const { stdout } = await promisify(execFile)(
          "pulumi",
          [...words, "--non-interactive", "--color=never"],
          { cwd: project, env },
        );
        return stdout;
      };
      await pulumi("stack", "init", "dev");
      const plain = ["address=192.0.2.1", `hostKey=SHA256:${"A".repeat(43)}`];
      const set = plain.flatMap((each) => ["--plaintext", each]);
      await pulumi("config", "set-all", ...set, "--secret", `sshKey=${canary}`);

      const shown = await pulumi("preview", "--diff");
      for (const type of [
        "boot:VerifiedBoot",
        "memory:CoreDumps",
        "memory:Scratch",
        "memory:Swap",
        "network:Firewall",
      ])
        expect(shown).toContain(`+ edgeseal:${type}: (create)`);
      expect(shown.match(/privateKey *: \[secret\]/g)).toHaveLength(5);
      expect(shown).not.toContain(canary);
      // The control: that key is what the stack has.
      expect(await pulumi("config", "get", "sshKey")).toContain(canary);
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
);

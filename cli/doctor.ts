import type { Command } from "commander";

export function register(program: Command): void {
  program
    .command("doctor")
    .description("Say what this machine has of what edgeseal needs, what is missing, and the mend")
    .option("--json", "as JSON, for other programs")
    .action(async (options: { readonly json?: true }) => {
      const { examine } = await import("../tools/doctor/pieces.ts");
      const { printFindings } = await import("../tools/doctor/report.ts");
      const findings = await examine();
      if (options.json) console.log(JSON.stringify(findings, undefined, 2));
      else printFindings(findings);
      if (findings.some(({ state }) => state === "missing")) process.exitCode = 1;
    });
}

import { join } from "node:path";
import type { PartOutput } from "../../../provider/device/probe.ts";
import type { SoftwareTpm } from "../trust/software-tpm.ts";
import { FakeRoot } from "./fake-root.ts";

/** A node with a TPM that tpm2-tools reach. */
export class TpmRoot extends FakeRoot {
  constructor() {
    super();
    this.write("/sys/class/tpm/tpm0/tpm_version_major", "2\n");
  }

  insert(tpm: SoftwareTpm): void {
    this.write("/tpm", `TPM2TOOLS_TCTI=swtpm:path=${join(tpm.folder, "socket")}; export TPM2TOOLS_TCTI\n`);
  }

  override sh(script: string, stdin?: string): PartOutput {
    return super.sh(`if [ -e "$ROOT/tpm" ]; then . "$ROOT/tpm"; fi\n${script}`, stdin);
  }
}

import { isBound } from "./boot-evidence.ts";
import { control, pass, unknown, violation } from "./control.ts";

/** What a volume is made with, on a board with AES instructions and on one without. `cipher_null-ecb` and its like encrypt nothing, and a header may be pinned with them. */
const ciphers: readonly string[] = ["aes-xts-plain64", "xchacha12,aes-adiantum-plain64"];

/** Point 2: model and log partitions in LUKS, keys sealed to the TPM. */
export const volumeControls = [
  control({
    id: "2.sealed-volumes",
    point: 2,
    title: "Model and log partitions are LUKS2, their keys sealed to the TPM",
    mend: "give the node `volumes` with `models` and `logs`; one that stays locked says why in `lockedReason` (docs/resources/sealed-volume.md)",
    block: "volumes",
    names: ["models", "logs"],
    declared: {
      reads: ["device", "mountPoint"],
      judge: ({ device, mountPoint }) =>
        pass(
          `${typeof device === "string" ? device : `${String(device.sizeMiB)} MiB of ${device.disk}`} at ${mountPoint}`,
        ),
    },
    observed: {
      reads: [
        "formation",
        "open",
        "openedBy",
        "headerMatchesPins",
        "headerDifferences",
        "missingOptions",
        "lockedReason",
        "cipher",
        "tokens",
        "recoveryKey",
        "pcr11Approved",
      ],
      judge: ({
        formation,
        open,
        openedBy,
        headerMatchesPins,
        headerDifferences,
        missingOptions,
        lockedReason,
        cipher,
        tokens,
        recoveryKey,
        pcr11Approved,
      }) => {
        if (formation !== "complete") return violation(`its formation is ${formation}`);
        if (headerDifferences.length > 0)
          return violation(`the header is not the pinned one: ${headerDifferences.join(", ")}`);
        if (!headerMatchesPins)
          return violation(
            "the header on the device is not the pinned one, or not written to its end; pulumi up tells",
          );
        if (!ciphers.includes(cipher))
          return violation(
            `its cipher is ${cipher === "" ? "none that can be told" : cipher}, which edgeseal never makes`,
          );
        if (!open) return violation(`locked: ${lockedReason === "" ? "no reason given" : lockedReason}`);
        if (missingOptions.length > 0) return violation(`mounted without ${missingOptions.join(", ")}`);
        if (openedBy === "formation")
          return unknown("open since it was formed: only a boot shows that the TPM opens it");
        if (openedBy !== "tpm") return violation(`opened by something else than the TPM (${openedBy})`);
        if (!isBound(tokens))
          return violation("its key slot for the TPM is not the only one, or not sealed as it has to be");
        if (recoveryKey === "")
          return violation(
            "its recovery ciphertext is not on the node: once this TPM is gone, nothing opens it",
          );
        return pcr11Approved
          ? pass(`opened by the TPM, header as pinned, ${cipher}`)
          : violation("opened by the TPM, and not by an approval of the site's policy key");
      },
    },
  }),
  control({
    id: "2.unsealing-capped",
    point: 2,
    title: "After boot nobody can unseal a volume's key again, not even root, unless the TPM is reset",
    mend: "give the node `volumes`; where it has some, look at edgeseal-cap-pcr15.service on the node (`systemctl status`), and reboot: PCR 15 is extended in every boot before sshd and the network",
    block: "volumes",
    declared: {
      reads: ["name"],
      judge: () => pass("bound to PCR 15 at zeros, which every boot extends before sshd and the network"),
    },
    observed: {
      reads: ["pcr15Capped", "tokens"],
      judge: ({ pcr15Capped, tokens }) => {
        const bound = isBound(tokens);
        const evidence = `PCR 15 ${pcr15Capped ? "was" : "was not"} extended in this boot, key ${bound ? "" : "not "}bound to it at zeros`;
        return pcr15Capped && bound ? pass(evidence) : violation(evidence);
      },
    },
  }),
] as const;

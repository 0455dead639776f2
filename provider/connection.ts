import { Type, type Static } from "typebox";

/**
 * How a node is reached. An input of every resource, never part of its state: changing it changes nothing on the device, so it is no difference
 * and never replaces anything.
 */
export const connectionSchema = Type.Object(
  {
    node: Type.String({
      pattern: "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
      description:
        "The node's name in its site: lower-case letters, digits and hyphens, 63 at most (a DNS label, RFC 1123).",
    }),
    address: Type.String({ minLength: 1, description: "IP address or host name at which sshd answers." }),
    port: Type.Integer({
      minimum: 1,
      maximum: 65535,
      default: 22,
      description: "TCP port of sshd. Default 22.",
    }),
    user: Type.String({
      minLength: 1,
      default: "edgeseal",
      description: "Login user. Any user but root must be allowed `sudo -n` for /bin/sh. Default `edgeseal`.",
    }),
    hostKey: Type.String({
      pattern:
        "^((ssh-ed25519|ecdsa-sha2-nistp(256|384|521)|ssh-rsa) [A-Za-z0-9+/=]+( [^\\r\\n]*)?|SHA256:[A-Za-z0-9+/]{43})$",
      description:
        "The device's host key: `ssh-ed25519 AAAA...` as in its .pub file (a comment after it is ignored), or its fingerprint `SHA256:...`. Required: there is no trust on first use.",
    }),
    privateKey: Type.Optional(
      Type.String({
        secret: true,
        description:
          "Private key in OpenSSH or PEM format, as a Pulumi secret. Default: `identityCommand`, else `identityFile`, else the agent.",
      }),
    ),
    identityCommand: Type.Optional(
      Type.String({
        minLength: 1,
        description:
          "Shell command that prints the private key, run on the machine that runs Pulumi when a node is first connected to: the key passes no engine, state or trace. Default: `identityFile`, else the agent.",
      }),
    ),
    identityFile: Type.Optional(
      Type.String({
        description:
          "File with the private key on the machine that runs Pulumi; `~/` is expanded. Default: the agent.",
      }),
    ),
    agent: Type.Optional(
      Type.String({
        description: "Socket of an ssh agent. Default: SSH_AUTH_SOCK, when neither key nor file is given.",
      }),
    ),
  },
  { additionalProperties: false, description: "How the node is reached over SSH." },
);

export type Connection = Static<typeof connectionSchema>;

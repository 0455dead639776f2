import * as pulumi from "@pulumi/pulumi";

/** How a node is reached over SSH. Never part of a resource's identity: changing it changes nothing on the device and replaces nothing. */
export interface ConnectionArgs {
  /** IP address or host name at which sshd answers. */
  readonly address: pulumi.Input<string>;
  /** TCP port of sshd. @default 22, the port of ssh. */
  readonly port?: pulumi.Input<number>;
  /** Login user; any but root must be allowed `sudo -n`. @default `edgeseal`: a user of its own, so that its logins can be told apart. */
  readonly user?: pulumi.Input<string>;
  /** The device's host key, `ssh-ed25519 AAAA...` or `SHA256:...`. Required: there is no trust on first use. */
  readonly hostKey: pulumi.Input<string>;
  /** Private key in OpenSSH or PEM format; a Pulumi secret from here on. @default `identityCommand`, else `identityFile`, else the agent. */
  readonly privateKey?: pulumi.Input<string>;
  /** Shell command that prints the private key, on the machine that runs Pulumi; the key passes no engine, state or trace. @default `identityFile`, else the agent. */
  readonly identityCommand?: pulumi.Input<string>;
  /** File with the private key on the machine that runs Pulumi; `~/` is expanded. @default the agent, so that no key need lie in a file. */
  readonly identityFile?: pulumi.Input<string>;
  /** Socket of an ssh agent. @default SSH_AUTH_SOCK, as ssh has it. */
  readonly agent?: pulumi.Input<string>;
}

/** What removing a node, or one of its resources, does to the device. */
export type OnDelete = "keep" | "revert";

/** The connection as resources take it: with the node's name, and the private key marked secret whatever it came as. */
export function connectionInputs(node: string, args: ConnectionArgs): pulumi.Inputs {
  const { address, port, user, hostKey, privateKey, identityCommand, identityFile, agent } = args;
  return {
    node,
    address,
    port,
    user,
    hostKey,
    privateKey: privateKey === undefined ? undefined : pulumi.secret(privateKey),
    identityCommand,
    identityFile,
    agent,
  };
}

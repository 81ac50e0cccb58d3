"""The simulator against Feishu's four official SDKs: what relay is tested against is Feishu."""

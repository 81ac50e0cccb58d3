"""What is deployed: the image, the chart, the alerts, the dashboard."""
